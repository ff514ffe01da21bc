"""What each matrix costs in each format: bytes, and the loss it alone causes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tribody.core.config import WeightFormat
from tribody.ops.table import Matrix, Ops
from tribody.precision.allocate import Option
from tribody.precision.codes import Parts
from tribody.precision.search import SEARCHES
from tribody.tuning.trial import Reading, Trial
from tribody.tuning.trial_ops import TrialMatrix

Sensitivities = dict[str, list[Option[WeightFormat]]]


def sensitivities(
    trial: Trial,
    ops: Ops,
    formats: Sequence[WeightFormat],
    readings: Sequence[Reading],
    advance: Callable[[int], None],
) -> Sensitivities:
    """Every matrix in every format, rounded plainly, all others float32.

    A drafter's matrices lose nothing: what it drafts is checked.  The trial is left as it was.
    """
    found: Sensitivities = {}
    for name, matrix in trial.matrices.items():
        original, first = matrix.matrix, trial.first_layer(name)
        found[name] = []
        for weight_format in formats:
            matrix.matrix = ops.pack(matrix.values, weight_format)
            loss = 0.0 if first is None else trial.divergence(readings, first)
            found[name].append(Option(weight_format, matrix.matrix.num_bytes, loss))
            advance(1)
        matrix.matrix = original
    return found


def searched(matrix: TrialMatrix, weight_format: WeightFormat, ops: Ops) -> Matrix:
    """The matrix in this format, scales fitted to the inputs that it met."""
    search = SEARCHES.get(weight_format)
    if search is None:
        return ops.pack(matrix.values, weight_format)
    values, importance = matrix.values, matrix.importance()
    if values.ndim == 2:
        return ops.pack_codes(weight_format, search(values, importance), values.shape)
    experts = [search(rows, weights) for rows, weights in zip(values, importance, strict=True)]
    stacked: Parts = tuple(np.stack(arrays) for arrays in zip(*experts, strict=True))
    return ops.pack_codes(weight_format, stacked, values.shape)


def exchange(
    trial: Trial,
    choices: Mapping[str, WeightFormat],
    ops: Ops,
    advance: Callable[[int], None],
) -> None:
    """Put every matrix into its chosen format; one that has it already stays."""
    for name, weight_format in choices.items():
        matrix = trial.matrices[name]
        if matrix.matrix.format != weight_format:
            matrix.matrix = searched(matrix, weight_format, ops)
        advance(1)
