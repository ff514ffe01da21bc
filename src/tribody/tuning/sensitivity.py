"""What each matrix costs in each format: bytes, and the loss that it alone causes.

Measured are each matrix in one coarse format, fitted to its inputs as it will be; the model with
all of them so; and the whole model rounded plainly in each format.  A matrix's loss in another
format is its loss in that one, times how much smaller its rounding errors are (the loss of small
errors is quadratic in them), times what makes the losses of all matrices in that format add up to
the whole model's.  That factor is where routers that choose other experts, whose losses shrink more
slowly, and eight-bit activations come in.  What the finest format loses is taken for theirs, which
fitting does not change; of the rest it leaves as much as in the coarse format.

An error is the sum, weighted by the inputs' mean squares, of (weight - value)^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tribody.core.config import WeightFormat
from tribody.ops.table import F32
from tribody.precision.allocate import Option
from tribody.precision.codes import decode, encode
from tribody.precision.formats import FORMATS, matrix_bytes
from tribody.precision.search import weighted_error
from tribody.tuning.fitting import Fits, importance_of
from tribody.tuning.trial import Reading, Trial

Sensitivities = dict[str, list[Option[WeightFormat]]]

COARSE: WeightFormat = "w4m32"
# Where it may be chosen, single matrices are measured in it: most will be kept in it, so that their
# fits are made once.

SAMPLED_ROWS = 512
# Of a matrix, to estimate errors by: the ratio of two formats' varies by 1 % between such samples.


def sensitivities(
    trial: Trial,
    fits: Fits,
    formats: Sequence[WeightFormat],
    readings: Sequence[Reading],
    advance: Callable[[int], None],
) -> Sensitivities:
    """Every matrix in every format.

    A drafter's matrices lose nothing: what it drafts is checked.  The trial is left as it was.
    Advances by twice the number of matrices, and the number of formats.
    """
    coarse = coarse_of(formats)
    fits.make(dict.fromkeys(trial.matrices, coarse), advance)
    losses: dict[str, dict[WeightFormat, float]] = {}
    for name, matrix in trial.matrices.items():
        losses[name] = dict.fromkeys(formats, 0.0)
        first = trial.first_layer(name)
        if first is not None:
            errors = rounding_errors(trial.values(name), importance_of(matrix), formats)
            fits.exchange({name: coarse}, lambda _: None)
            measured = trial.divergence(readings, first)
            matrix.matrix = matrix.original
            scale = measured / errors[coarse] if errors[coarse] > 0 else 0.0
            losses[name] = {each: scale * error for each, error in errors.items()}
        advance(1)
    fits.exchange(dict.fromkeys(trial.matrices, coarse), lambda _: None)
    fitted_loss = trial.divergence(readings, -1)
    plain_losses = {}
    for each in formats:
        plain_losses[each] = _uniform_loss(trial, each, readings)
        advance(1)
    floor = min(fitted_loss, *plain_losses.values())
    above = plain_losses[coarse] - floor
    left = (fitted_loss - floor) / above if above > 0 else 1.0
    for each in formats:
        total = sum(loss[each] for loss in losses.values())
        whole = floor + left * (plain_losses[each] - floor)
        for loss in losses.values():
            loss[each] *= whole / total if total > 0 else 1.0
    return {
        name: [Option(each, matrix_bytes(trial.matrices[name].shape, each), loss[each])
               for each in formats]
        for name, loss in losses.items()
    }  # fmt: skip


def coarse_of(formats: Sequence[WeightFormat]) -> WeightFormat:
    """The format that single matrices are measured in."""
    smallest = min(formats, key=lambda each: FORMATS[each].bits_per_weight)
    return COARSE if COARSE in formats else smallest


def _uniform_loss(trial: Trial, weight_format: WeightFormat, readings: Sequence[Reading]) -> float:
    """Of the model with all its matrices in one format, rounded plainly."""
    for name, matrix in trial.matrices.items():
        matrix.matrix = trial.rounded(name, weight_format)
    loss = trial.divergence(readings, -1)
    for matrix in trial.matrices.values():
        matrix.matrix = matrix.original
    return loss


def rounding_errors(
    values: F32, importance: F32, formats: Sequence[WeightFormat]
) -> dict[WeightFormat, float]:
    """Each format's plain rounding error, weighted by the inputs, estimated by a sample of rows."""
    columns = values.shape[-1]
    stacks = values.reshape(-1, *values.shape[-2:])
    weights = np.broadcast_to(importance, (len(stacks), columns))
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
