"""What each matrix costs in each format: bytes, and the loss that it alone causes.

Measured are each matrix in the coarsest format, and the whole model in each format.  A matrix's
loss in a finer format is its loss in the coarsest, times how much smaller its rounding errors are
(the loss of small errors is quadratic in them), times what makes the losses of all matrices in that
format add up to the whole model's.  That factor is where routers that choose other experts, whose
losses shrink more slowly, and eight-bit activations, which no format makes finer, come in.

An error is the sum, weighted by the inputs' mean squares, of (weight - value)^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tribody.core.config import WeightFormat
from tribody.ops.table import F32, Ops
from tribody.precision.allocate import Option
from tribody.precision.codes import decode, encode
from tribody.precision.formats import matrix_bytes
from tribody.precision.search import weighted_error
from tribody.tuning.trial import Reading, Trial
from tribody.tuning.trial_ops import TrialMatrix

Sensitivities = dict[str, list[Option[WeightFormat]]]

SAMPLED_ROWS = 512
# Of a matrix, to estimate errors by: the ratio of two formats' varies by 1 % between such samples.


def sensitivities(
    trial: Trial,
    ops: Ops,
    formats: Sequence[WeightFormat],
    readings: Sequence[Reading],
    advance: Callable[[int], None],
) -> Sensitivities:
    """Every matrix in every format, rounded plainly.

    A drafter's matrices lose nothing: what it drafts is checked.  The trial is left as it was.
    Advances by the number of matrices and of formats.
    """
    sizes = {
        name: {each: matrix_bytes(matrix.shape, each) for each in formats}
        for name, matrix in trial.matrices.items()
    }
    losses: dict[str, dict[WeightFormat, float]] = {}
    for name, matrix in trial.matrices.items():
        first = trial.first_layer(name)
        losses[name] = dict.fromkeys(formats, 0.0)
        if first is not None:
            values = trial.values(name)
            errors = rounding_errors(matrix, values, formats)
            coarsest = min(formats, key=sizes[name].__getitem__)
            matrix.matrix = ops.pack(values, coarsest)
            measured = trial.divergence(readings, first)
            matrix.matrix = matrix.original
            scale = measured / errors[coarsest] if errors[coarsest] > 0 else 0.0
            losses[name] = {each: scale * error for each, error in errors.items()}
        advance(1)
    for each in formats:
        total = sum(loss[each] for loss in losses.values())
        factor = _uniform_loss(trial, ops, each, readings) / total if total > 0 else 1.0
        for loss in losses.values():
            loss[each] *= factor
        advance(1)
    return {
        name: [Option(each, sizes[name][each], loss[each]) for each in formats]
        for name, loss in losses.items()
    }


def _uniform_loss(
    trial: Trial, ops: Ops, weight_format: WeightFormat, readings: Sequence[Reading]
) -> float:
    """Of the model with all its matrices in one format."""
    for name, matrix in trial.matrices.items():
        matrix.matrix = ops.pack(trial.values(name), weight_format)
    loss = trial.divergence(readings, -1)
    for matrix in trial.matrices.values():
        matrix.matrix = matrix.original
    return loss


def rounding_errors(
    matrix: TrialMatrix, values: F32, formats: Sequence[WeightFormat]
) -> dict[WeightFormat, float]:
    """Each format's plain rounding error, weighted by the inputs, estimated by a sample of rows."""
    columns = values.shape[-1]
    stacks = values.reshape(-1, *values.shape[-2:])
    weights = np.broadcast_to(importance_of(matrix), (len(stacks), columns))
    num_rows = len(stacks) * stacks.shape[1]
    step = max(1, num_rows // SAMPLED_ROWS)
    sampled = [rows[index % step :: step] for index, rows in enumerate(stacks)]
    scale = num_rows / max(1, sum(len(rows) for rows in sampled))

    def error(weight_format: WeightFormat) -> float:
        total = 0.0
        for rows, by_column in zip(sampled, weights, strict=True):
            decoded = decode(weight_format, encode(rows, weight_format), columns)
            total += float(weighted_error(rows, decoded, by_column).sum())
        return float(scale * total)

    return {each: error(each) for each in formats}


def importance_of(matrix: TrialMatrix) -> F32:
    """Mean square of each input column, (K,) or (E, K); ones where nothing was observed."""
    moments = matrix.mean_moments()
    if moments is None:
        return np.ones((*matrix.counts.shape, matrix.shape[-1]), np.float32)
    if moments.ndim - matrix.counts.ndim == 2:
        moments = np.diagonal(moments, axis1=-2, axis2=-1)
    return np.ascontiguousarray(moments)
