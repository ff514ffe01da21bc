"""Codes that make up for each other's rounding, where it is known which inputs go together.

A rounded weight changes a row's products by its error times its input.  A weight of the same row
whose input tends to rise and fall with that one can take up a part of the change.  So columns are
rounded one after the other, those with the strongest inputs first, and each one's error is spread
over the columns still to come.  Scales and minima stay as they are; only codes change.

What becomes small is, for each row with error e, the mean square of its products' changes,

    e . M . e,    M = the mean of (input . input') over the inputs that were seen,

where `precision.search` sees only M's diagonal.

Source: E. Frantar, S. Ashkboos, T. Hoefler and D. Alistarh, "GPTQ" (2022): the update of Hassibi
and Stork's optimal brain surgeon, its inverses from one Cholesky factor.  No code was taken.
"""

from __future__ import annotations

import numpy as np

from tribody.core.config import WeightFormat
from tribody.precision.codes import Parts, decode
from tribody.precision.grid import GRIDS, Codes, Grid
from tribody.precision.quantize import F32, GROUP_SIZE, inverse_of

LEAST_DAMPING, MOST_DAMPING = 0.01, 0.5  # the least is the paper's value

STEP = 32  # columns whose errors are spread over the rest in one product

BLOCK_ROWS = 8192  # rows at a time: of 1,536 columns 50 MB, and few enough calls for each column


def damped(moments: F32, num_inputs: float) -> F32:
    """M with a share of its mean diagonal added to it.

    What M of few inputs says of directions that were hardly seen is chance, and codes chosen by it
    suit these inputs only: the share is columns / inputs.  On SmolLM2's layers the error on other
    tokens is then least, or within 3 % of it, from 0.14 columns for each input to 0.75: of 1,536
    columns and 8,192 inputs in `w4m32` 0.69 of the error without compensation, where 0.01 leaves
    0.76; of 2,048 inputs 0.77, where 0.01 leaves 1.26.
    """
    columns = len(moments)
    share = min(MOST_DAMPING, max(LEAST_DAMPING, columns / max(num_inputs, 1.0)))
    found = moments.copy()
    found[np.diag_indices(columns)] += np.float32(share) * moments.diagonal().mean()
    return found


def product_error(weights: F32, values: F32, moments: F32) -> F32:
    """e . M . e of each row, (N,), e = weights - values (N, K)."""
    errors = weights - values
    result: F32 = np.einsum("nk,nk->n", errors @ moments, errors)
    return result


def compensate(weights: F32, weight_format: WeightFormat, parts: Parts, moments: F32) -> Parts:
    """Parts of weights (N, K) with codes chosen anew; M is `moments` (K, K), `damped`.

    A row keeps its codes where the new ones are no better; so do all where M is zero or a weight or
    scale is not finite.
    """
    grid = GRIDS[weight_format](parts)
    if not moments.diagonal().any() or not (grid.is_finite() and np.isfinite(weights).all()):
        return parts
    order, factor = _factor(moments)
    old = parts[0]
    codes = old.copy()
    for first in range(0, len(weights), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        codes[rows] = _round(weights[rows], grid.rows(rows), codes[rows], order, factor)
    found = codes, *parts[1:]
    before, after = (
        product_error(weights, decode(weight_format, p, weights.shape[1]), moments)
        for p in (parts, found)
    )
    codes[after >= before] = old[after >= before]
    return found


def _factor(moments: F32) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], F32]:
    """Columns from the strongest input to the weakest, and, in this order, the upper triangle U
    with U' U = the inverse of the moments."""
    order = np.argsort(-moments.diagonal(), kind="stable")
    ordered = moments[np.ix_(order, order)].astype(np.float64)
    return order, np.linalg.cholesky(np.linalg.inv(ordered)).T.astype(np.float32)


def _round(
    weights: F32,
    grid: Grid,
    codes: Codes,
    order: np.ndarray[tuple[int], np.dtype[np.intp]],
    factor: F32,
) -> Codes:
    """New codes (N, G, 32) for one block of rows; padding keeps its own."""
    rest = np.ascontiguousarray(weights.T[order])  # (K, N): a column is contiguous
    scales, minima = np.ascontiguousarray(grid.scales.T), np.ascontiguousarray(grid.minima.T)
    inverses = inverse_of(scales)
    columns = np.empty(rest.shape, np.float32)
    for first in range(0, len(order), STEP):
        last = min(first + STEP, len(order))
        errors = np.empty((last - first, rest.shape[1]), np.float32)
        for i in range(first, last):
            group = order[i] // GROUP_SIZE
            number = grid.numbers.nearest((rest[i] + minima[group]) * inverses[group])
            columns[order[i]] = number
            error = rest[i] - (number * scales[group] - minima[group])
            error /= factor[i, i]
            rest[i + 1 : last] -= factor[i, i + 1 : last, None] * error
            errors[i - first] = error
        rest[last:] -= factor[first:last, last:].T @ errors
    flat = codes.reshape(len(codes), -1).copy()
    flat[:, : len(order)] = grid.numbers.to_codes(columns.T)
    return flat.reshape(codes.shape)
