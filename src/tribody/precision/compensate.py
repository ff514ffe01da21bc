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

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from tribody.core.config import WeightFormat
from tribody.precision import minimum, quantize
from tribody.precision.codes import Parts, decode
from tribody.precision.minimum import MinimumParts
from tribody.precision.quantize import F32, GROUP_SIZE, inverse_of

DAMPING = 0.01
# Of M's mean diagonal, added to it: M of few inputs is singular, and what it says of directions
# that were hardly seen is chance.  The paper's value.

STEP = 32  # columns whose errors are spread over the rest in one product

BLOCK_ROWS = 8192  # rows at a time: of 1,536 columns 50 MB, and few enough calls for each column


@dataclass(frozen=True, slots=True)
class Grid:
    """What a row's codes may be: value = code * scale - minimum, low <= code <= high.

    `scales` and `minima` are float32 (N, G); parts hold code + `centre`.
    """

    scales: F32
    minima: F32
    low: int
    high: int
    centre: int = 0


def _symmetric(levels: int, centre: int) -> Callable[[Parts], Grid]:
    def grid(parts: Parts) -> Grid:
        scales = parts[1].astype(np.float32)
        return Grid(scales, np.zeros_like(scales), -levels, levels, centre)

    return grid


def _with_minimum(levels: int) -> Callable[[Parts], Grid]:
    def grid(parts: Parts) -> Grid:
        _, scales, minima, *units = cast(MinimumParts, parts)
        by_scale, by_minimum = (minimum.steps_of(unit)[..., None] for unit in units)
        return Grid(scales * by_scale, minima * by_minimum, 0, levels)

    return grid


GRIDS: dict[WeightFormat, Callable[[Parts], Grid]] = {
    "w8g32": _symmetric(quantize.LEVELS_W8, 0),
    "w6g32": _symmetric(quantize.LEVELS_W6, quantize.CENTRE_W6),
    "w5m32": _with_minimum(minimum.LEVELS_W5),
    "w4m32": _with_minimum(minimum.LEVELS_W4),
}


def product_error(weights: F32, values: F32, moments: F32) -> F32:
    """e . M . e of each row, (N,), e = weights - values (N, K)."""
    errors = weights - values
    result: F32 = np.einsum("nk,nk->n", errors @ moments, errors)
    return result


def compensate(weights: F32, weight_format: WeightFormat, parts: Parts, moments: F32) -> Parts:
    """Parts of weights (N, K) with codes chosen anew; M is `moments` (K, K).

    A row keeps its codes where the new ones are no better; so do all where M is zero or a weight or
    scale is not finite.
    """
    grid = GRIDS[weight_format](parts)
    if not moments.diagonal().any() or not np.isfinite(grid.scales.sum() + weights.sum()):
        return parts
    order, factor = _factor(moments)
    old = parts[0]
    codes = old.copy()
    for first in range(0, len(weights), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        block = Grid(grid.scales[rows], grid.minima[rows], grid.low, grid.high, grid.centre)
        codes[rows] = _round(weights[rows], block, codes[rows], order, factor)
    found = codes, *parts[1:]
    before, after = (
        product_error(weights, decode(weight_format, p, weights.shape[1]), moments)
        for p in (parts, found)
    )
    codes[after >= before] = old[after >= before]
    return found


def _factor(moments: F32) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], F32]:
    """Columns from the strongest input to the weakest, and, in this order, the upper triangle U
    with U' U = the inverse of the damped moments."""
    order = np.argsort(-moments.diagonal(), kind="stable")
    damped = moments[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * damped.diagonal().mean()
    return order, np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def _round(
    weights: F32,
    grid: Grid,
    codes: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    order: np.ndarray[tuple[int], np.dtype[np.intp]],
    factor: F32,
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
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
            code = np.rint((rest[i] + minima[group]) * inverses[group])
            np.clip(code, grid.low, grid.high, out=code)
            columns[order[i]] = code
            error = rest[i] - (code * scales[group] - minima[group])
            error /= factor[i, i]
            rest[i + 1 : last] -= factor[i, i + 1 : last, None] * error
            errors[i - first] = error
        rest[last:] -= factor[first:last, last:].T @ errors
    flat = codes.reshape(len(codes), -1).copy()
    flat[:, : len(order)] = (columns.T + np.float32(grid.centre)).astype(codes.dtype)
    return flat.reshape(codes.shape)
