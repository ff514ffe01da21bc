"""Quantizers that search: offline, slower than the plain ones, and never worse.

Each takes weights (N, K) and, if it is known, how much each column matters: `importance` (K,), the
mean square of the activations that meet it.  The error that it makes small is

    sum over columns of importance * (weight - value)^2

A group's scale is tried at several fractions of the largest magnitude; codes follow by rounding;
and for these codes the best scale (and minimum) is the solution of weighted least squares, after
which codes with a minimum are rounded again.  The best that was met is kept, and the plain one's
is the first of it.

Source of the idea: the k-quants of llama.cpp (I. Kawrakow, pull request 1684) and of ik_llama.cpp,
weighted linear regression otherwise.  No code was taken.

NumPy over blocks of rows: BLOCK_WEIGHTS bounds the copies.  0.15 to 0.3 microseconds a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.precision import float_codes, minimum, quantize
from tribody.precision.codes import Parts, decode, encode
from tribody.precision.minimum import MinimumParts
from tribody.precision.quantize import F16, F32, U8, in_groups, inverse_of

F64 = NDArray[np.float64]

BLOCK_WEIGHTS = 1 << 19  # a dozen float32 copies of these are 25 MB

ROUNDS = 2
# Of rounding and least squares in turn: after every fraction where there is a minimum, after all of
# them, from the best, where there is none.

FRACTIONS = np.linspace(0.8, 1.25, 19, dtype=np.float32)
# Of the plain scale.  Fractions below 0.8 gained nothing (0.02 %); those above 1.1 gain 0.2 to
# 0.8 % without importance and up to 2.4 % with it (w6g32), where a group's largest weight may be
# rounded for the sake of the others.  Where there is a minimum, every second one is tried.
# All of them and four rounds after each lower the weighted squared error by 0.5 % (w6g32), 3 %
# (w4m32) and 4 % (w8g32, w5m32) for two to three times the time.

SMALLEST_IMPORTANCE = 1e-6
# Of the mean: a column that calibration never excited still has a right value.


def _weights_of(importance: F32 | None, columns: int) -> F32:
    """Per-column weights as groups (G, 32), their mean near 1; padding weighs nothing."""
    if importance is None:
        return in_groups(np.ones(columns, np.float32))
    assert importance.shape == (columns,)
    mean = float(importance.mean(dtype=np.float64)) if columns else 1.0
    if not np.isfinite(mean) or mean <= 0:
        return in_groups(np.ones(columns, np.float32))
    scaled = np.maximum(importance / np.float32(mean), np.float32(SMALLEST_IMPORTANCE))
    return in_groups(scaled.astype(np.float32))


def _sums(a: F32, b: F32) -> F32:
    """Sums of products of groups (N, G, 32), (N, G)."""
    sums: F32 = np.einsum("ngk,ngk->ng", a, b)
    return sums


def _squares(differences: F32, weights: F32) -> F32:
    """Weighted sums of squares of groups (N, G, 32), (N, G)."""
    return _sums(differences * weights, differences)


def weighted_error(weights: F32, values: F32, importance: F32 | None) -> F64:
    """sum of importance * (weight - value)^2 of each row, (N,)."""
    columns = weights.shape[-1]
    by_column = np.ones(columns) if importance is None else importance.astype(np.float64)
    return np.square(weights.astype(np.float64) - values) @ by_column


def _in_row_blocks(
    weights: F32, body: Callable[[F32, Parts], Parts], weight_format: WeightFormat
) -> Parts:
    """body(rows, their plain parts) for blocks of rows, joined.

    Rows that the format cannot hold (Inf, NaN, a scale that overflows) keep their plain parts.
    """
    step = max(1, BLOCK_WEIGHTS // max(1, weights.shape[-1]))
    blocks = [weights[i : i + step] for i in range(0, len(weights), step)] or [weights]
    found = []
    for block in blocks:
        plain = encode(block, weight_format)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(decode(weight_format, plain, block.shape[-1]))
            broken = ~np.asarray(finite.all(axis=-1))
            safe = np.where(broken[:, None], np.float32(0), block)
            parts = body(safe, encode(safe, weight_format))
        for part, own in zip(parts, plain, strict=True):
            part[broken] = own[broken]
        found.append(parts)
    return tuple(np.concatenate(columns) for columns in zip(*found, strict=True))


# ---- one scale for each group --------------------------------------------------------------------


class _Best:
    """The codes and scales of the least error met so far, group by group."""

    def __init__(self, codes: F32, scales: F16, error: F32) -> None:
        self.codes, self.scales, self.error = codes, scales, error

    def offer(self, codes: F32, scales: F16, error: F32) -> None:
        better = error < self.error
        self.error = np.where(better, error, self.error)
        self.scales = np.where(better, scales, self.scales)
        self.codes = np.where(better[..., None], codes, self.codes)


def _symmetric_error(groups: F32, weights: F32, codes: F32, scales: F16) -> F32:
    return _squares(groups - codes * scales.astype(np.float32)[..., None], weights)


def _search_symmetric(groups: F32, weights: F32, plain: tuple[F32, F16], levels: int) -> _Best:
    """Codes in [-levels, levels] and float16 scales for groups (N, G, 32)."""
    best = _Best(*plain, _symmetric_error(groups, weights, *plain))
    largest = np.abs(groups).max(axis=-1) / np.float32(levels)
    weighted = groups * weights
    tried = [(largest * fraction).astype(np.float16) for fraction in FRACTIONS]
    for index in range(len(tried) + ROUNDS):
        scales = tried[index] if index < len(tried) else best.scales
        codes = groups * inverse_of(scales.astype(np.float32))[..., None]
        codes = np.clip(np.rint(codes), -levels, levels)
        products, squares = _sums(weighted, codes), _squares(codes, weights)
        refit = np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0)
        scales = refit.astype(np.float16)
        best.offer(codes, scales, _symmetric_error(groups, weights, codes, scales))
    return best


def _symmetric(
    weights: F32, importance: F32 | None, weight_format: WeightFormat, levels: int, centre: int
) -> Parts:
    by_group = _weights_of(importance, weights.shape[-1])

    def body(rows: F32, plain: Parts) -> Parts:
        codes, scales = plain
        first = codes.astype(np.float32) - np.float32(centre), cast(F16, scales)
        best = _search_symmetric(in_groups(rows), by_group, first, levels)
        return (best.codes + np.float32(centre)).astype(codes.dtype), best.scales

    return _in_row_blocks(weights, body, weight_format)


def search_w8g32(weights: F32, importance: F32 | None = None) -> Parts:
    """w8g32 parts of weights (N, K)."""
    return _symmetric(weights, importance, "w8g32", quantize.LEVELS_W8, 0)


def search_w6g32(weights: F32, importance: F32 | None = None) -> Parts:
    """w6g32 parts of weights (N, K)."""
    return _symmetric(weights, importance, "w6g32", quantize.LEVELS_W6, quantize.CENTRE_W6)


# ---- a scale and a minimum -----------------------------------------------------------------------


def _solve(weighted: F32, codes: F32, weights: F32) -> tuple[F32, F32]:
    """The scale and the minimum (both at least 0) that fit these codes best, for each group.

    Least squares of w = scale * code - minimum, given w * weight: two equations, solved by Cramer's
    rule; where the minimum would be negative it is 0 and the scale is fitted alone.
    """
    total, value = weights.sum(axis=-1), weighted.sum(axis=-1)
    code = np.einsum("ngk,gk->ng", codes, weights)
    square, product = _squares(codes, weights), _sums(weighted, codes)
    determinant = total * square - code * code
    solvable = determinant > 0
    scales, minima = (
        np.divide(top, determinant, out=np.zeros_like(determinant), where=solvable)
        for top in (total * product - code * value, code * product - square * value)
    )
    alone = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
    scales = np.where(minima < 0, alone, scales)
    return np.maximum(scales, 0), np.maximum(minima, 0)


def _real_error(groups: F32, weights: F32, codes: F32, scales: F32, minima: F32) -> F32:
    return _squares(groups - (codes * scales[..., None] - minima[..., None]), weights)


def _search_ranges(groups: F32, weights: F32, levels: int) -> tuple[F32, F32]:
    """Real scales and minima (N, G) of small weighted error, before they are rounded to bytes."""
    lowest = np.minimum(groups.min(axis=-1), np.float32(0))
    ranges = (groups.max(axis=-1) - lowest) / np.float32(levels)
    best_scales, best_minima = ranges, -lowest
    codes = minimum.nearest_codes(groups, ranges, -lowest, levels)
    best_error = _real_error(groups, weights, codes, ranges, -lowest)
    weighted = groups * weights
    for fraction in FRACTIONS[::2]:
        codes = minimum.nearest_codes(groups, ranges * fraction, -lowest * fraction, levels)
        for _ in range(ROUNDS):
            scales, minima = _solve(weighted, codes, weights)
            codes = minimum.nearest_codes(groups, scales, minima, levels)
            error = _real_error(groups, weights, codes, scales, minima)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scales = np.where(better, scales, best_scales)
            best_minima = np.where(better, minima, best_minima)
    return best_scales, best_minima


def _nearest_bytes(
    groups: F32, weights: F32, parts: MinimumParts, levels: int
) -> tuple[MinimumParts, F32]:
    """Under fixed units the best bytes among the rounded ones and their neighbours: nine pairs.

    Returns the parts with these bytes and their codes, and the error of each row.
    """
    _, first_scales, first_minima, scale_units, minimum_units = parts
    best_error = np.full(first_scales.shape, np.inf, np.float32)
    best = parts[0].astype(np.float32), first_scales, first_minima
    unit_scale, unit_minimum = (minimum.steps_of(u)[..., None] for u in parts[3:])
    for by_scale in (0, -1, 1):
        scales = np.clip(first_scales.astype(np.int16) + by_scale, 0, 255).astype(np.uint8)
        for by_minimum in (0, -1, 1):
            minima = np.clip(first_minima.astype(np.int16) + by_minimum, 0, 255).astype(np.uint8)
            real = scales * unit_scale, minima * unit_minimum
            codes = minimum.nearest_codes(groups, *real, levels)
            error = _real_error(groups, weights, codes, *real)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best = (
                np.where(better[..., None], codes, best[0]),
                np.where(better, scales, best[1]),
                np.where(better, minima, best[2]),
            )
    codes, scales, minima = best
    found = codes.astype(np.uint8), scales, minima, scale_units, minimum_units
    return found, best_error.sum(axis=-1)


def _refit_units(groups: F32, weights: F32, parts: MinimumParts) -> tuple[F16, F16]:
    """The units that fit these codes and bytes best, for each row: `_solve` over the whole row."""
    codes, scales, minima = (part.astype(np.float32) for part in parts[:3])
    x, y = codes * scales[..., None], np.broadcast_to(minima[..., None], codes.shape)
    xx, xy, yy, xw, yw = (
        np.einsum("ngk,ngk,gk->n", a, b, weights, dtype=np.float64)
        for a, b in ((x, x), (x, y), (y, y), (x, groups), (y, groups))
    )
    determinant = xx * yy - xy * xy
    usable = determinant > 1e-9 * xx * yy
    safe = np.where(usable, determinant, 1)
    steps = (xw * yy - xy * yw) / safe, (xw * xy - xx * yw) / safe
    usable &= (steps[0] > 0) & (steps[1] >= 0)
    old = parts[3], parts[4]
    with np.errstate(over="ignore"):
        new = tuple((step * minimum.STEPS).astype(np.float16) for step in steps)
    usable &= np.isfinite(new[0]) & np.isfinite(new[1])
    return np.where(usable, new[0], old[0]), np.where(usable, new[1], old[1])


def _search_minimum(groups: F32, weights: F32, plain: MinimumParts, levels: int) -> MinimumParts:
    """The best parts met, row by row: units are shared by a row's groups."""
    real = (
        part * minimum.steps_of(unit)[..., None]
        for part, unit in ((plain[1], plain[3]), (plain[2], plain[4]))
    )
    best = cast(MinimumParts, tuple(part.copy() for part in plain))
    best_error = _real_error(groups, weights, plain[0].astype(np.float32), *real).sum(axis=-1)
    scales, minima = _search_ranges(groups, weights, levels)
    units = (
        minimum.to_units(scales.max(axis=-1, initial=0)),
        minimum.to_units(minima.max(axis=-1, initial=0)),
    )
    for _ in range(ROUNDS):
        bytes_ = minimum.to_bytes(scales, units[0]), minimum.to_bytes(minima, units[1])
        parts, error = _nearest_bytes(groups, weights, (plain[0], *bytes_, *units), levels)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        for new, old in zip(cast(Parts, parts), cast(Parts, best), strict=True):
            old[better] = new[better]
        units = _refit_units(groups, weights, parts)
    return best


def _with_minimum(
    weights: F32, importance: F32 | None, weight_format: WeightFormat, levels: int
) -> Parts:
    by_group = _weights_of(importance, weights.shape[-1])

    def body(rows: F32, plain: Parts) -> Parts:
        return _search_minimum(in_groups(rows), by_group, cast(MinimumParts, plain), levels)

    return _in_row_blocks(weights, body, weight_format)


def search_w5m32(weights: F32, importance: F32 | None = None) -> Parts:
    """w5m32 parts of weights (N, K)."""
    return _with_minimum(weights, importance, "w5m32", minimum.LEVELS_W5)


def search_w4m32(weights: F32, importance: F32 | None = None) -> Parts:
    """w4m32 parts of weights (N, K)."""
    return _with_minimum(weights, importance, "w4m32", minimum.LEVELS_W4)


# ---- powers of two -------------------------------------------------------------------------------


def search_fp4g32(weights: F32, importance: F32 | None = None) -> Parts:
    """fp4g32 parts of weights (N, K): the best of the plain exponent and its two neighbours."""
    by_group = _weights_of(importance, weights.shape[-1])

    def body(rows: F32, plain: Parts) -> Parts:
        groups = in_groups(rows)
        codes, scales = cast(tuple[U8, U8], plain)
        best_error = np.full(scales.shape, np.inf, np.float32)
        best: tuple[U8, U8] = codes, scales
        for by in (0, 1, -1):
            tried = np.clip(scales.astype(np.int16) + by, 0, 252).astype(np.uint8)
            real = float_codes.power_of_two(tried)[..., None]
            codes = float_codes.to_e2m1(groups / real)
            error = _squares(groups - float_codes.E2M1_VALUES[codes] * real, by_group)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best = np.where(better[..., None], codes, best[0]), np.where(better, tried, best[1])
        return best

    return _in_row_blocks(weights, body, "fp4g32")


SEARCHES: dict[WeightFormat, Callable[[F32, F32 | None], Parts]] = {
    "w8g32": search_w8g32,
    "w6g32": search_w6g32,
    "w5m32": search_w5m32,
    "w4m32": search_w4m32,
    "fp4g32": search_fp4g32,
}
