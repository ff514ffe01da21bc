"""Codes, scales and minima improved one at a time, until the products of a matrix change least.

`precision.search` sees how strong each input is, `precision.compensate` which inputs go together
but not other scales.  Here every group's scale and minimum, then each of its 32 codes, is replaced
by the best one while everything else stays as it is, group after group.  What is made smaller is

    e . M . e,    e = weight - value of a row, M the mean of (input . input')

as there; it never grows, and a step costs what its product with M does.

Source: coordinate descent, as in K. Behdin et al., "QuantEase" (2023), there for codes alone.  No
code was taken.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from tribody.core.config import WeightFormat
from tribody.precision import minimum
from tribody.precision.codes import Parts
from tribody.precision.compensate import BLOCK_ROWS
from tribody.precision.grid import GRIDS, Grid
from tribody.precision.minimum import MinimumParts
from tribody.precision.quantize import F32, GROUP_SIZE, inverse_of

SWEEPS = 2
# Over all groups.  On SmolLM2's layers in `w4m32` they take off 5 to 9 % of the error that
# `compensate` leaves, codes alone 3 %; two more sweeps would take off another 1 %.

SOLVABLE = 1e-6  # of a group's two equations for scale and minimum: the least relative determinant


def descend(weights: F32, weight_format: WeightFormat, parts: Parts, moments: F32) -> Parts:
    """Parts of weights (N, K) whose products change no more than with `parts`; M is `moments`.

    Given parts stay as they are where M is zero or a weight or scale is not finite.
    """
    grid = GRIDS[weight_format](parts)
    if not moments.diagonal().any() or not (grid.is_finite() and np.isfinite(weights).all()):
        return parts
    blocks = []
    for first in range(0, len(weights), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        own = tuple(part[rows] for part in parts)
        descent = _Descent(weights[rows], grid.rows(rows), own, moments)
        for _ in range(SWEEPS):
            descent.sweep()
        blocks.append(descent.parts())
    return tuple(np.concatenate(columns) for columns in zip(*blocks, strict=True))


class _Descent:
    """One block of rows, turned: columns lie along the first axis, so that one is contiguous.

    `numbers` (K, N) are what the codes stand for, `errors` is e, `slopes` M e: half of what the
    error's derivative is.
    """

    def __init__(self, weights: F32, grid: Grid, parts: Parts, moments: F32) -> None:
        self._given, self._grid, self._moments = parts, grid, moments
        self._scales = np.ascontiguousarray(grid.scales.T)  # (G, N)
        self._minima = np.ascontiguousarray(grid.minima.T)
        # Steps in which a scale and a minimum are counted; none: there is no minimum.
        self._steps = None
        if len(parts) == 5:
            units = cast(MinimumParts, parts)[3:]
            self._steps = minimum.steps_of(units[0]), minimum.steps_of(units[1])
        columns = weights.shape[1]
        codes = parts[0].reshape(len(weights), -1)[:, :columns]
        self._numbers = np.ascontiguousarray(grid.numbers.of_codes(codes).T)
        self._errors = weights.T.copy(order="C")
        for group, columns_of in enumerate(self._groups()):
            value = self._numbers[columns_of] * self._scales[group] - self._minima[group]
            self._errors[columns_of] -= value
        self._slopes = moments @ self._errors

    def _groups(self) -> list[slice]:
        columns = len(self._numbers)
        return [slice(k, min(k + GROUP_SIZE, columns)) for k in range(0, columns, GROUP_SIZE)]

    def sweep(self) -> None:
        for group, columns in enumerate(self._groups()):
            own, slopes = self._moments[columns, columns], self._slopes[columns].copy()
            change = self._rescale(group, self._numbers[columns], slopes, own)
            slopes += own @ change
            self._recode(group, columns, change, slopes, own)
            self._errors[columns] += change
            self._slopes += self._moments[:, columns] @ change
            self._slopes[columns] = slopes  # the same, less rounding

    def _rescale(self, group: int, numbers: F32, slopes: F32, own: F32) -> F32:
        """Replace a group's scales and minima; returns how its errors (32, N) change."""
        if self._given[1].dtype == np.uint8 and self._steps is None:
            return np.zeros_like(numbers)  # a power of two has no neighbour that is near
        weighted = own @ numbers
        square, product = (numbers * weighted).sum(axis=0), (numbers * slopes).sum(axis=0)
        scales, minima = self._scales[group], self._minima[group]
        if self._steps is None:
            by = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
            new = (scales + by).astype(np.float16).astype(np.float32)
            by, also = new - scales, np.zeros_like(by)
            gain = by * (by * square - 2 * product)
            better = (gain < 0) & (new > 0)
        else:
            cross, total, slope = weighted.sum(axis=0), own.sum(), slopes.sum(axis=0)
            determinant = square * total - cross * cross
            safe = determinant > SOLVABLE * square * total
            by = np.where(safe, product * total - cross * slope, 0) / np.where(safe, determinant, 1)
            by = _counted(scales + by, self._steps[0], scales) - scales
            also = (by * cross - slope) / total
            also = _counted(minima + also, self._steps[1], minima) - minima
            gain = by * (by * square - 2 * product) + also * (also * total + 2 * slope)
            better = gain - 2 * by * also * cross < 0
        by, also = np.where(better, by, 0), np.where(better, also, 0)
        self._scales[group] += by
        self._minima[group] += also
        change: F32 = also - by * numbers
        return change

    def _recode(self, group: int, columns: slice, change: F32, slopes: F32, own: F32) -> None:
        """Replace a group's codes, column by column; `change` and `slopes` follow."""
        numbers, scales = self._numbers[columns], self._scales[group]
        inverses = inverse_of(scales)
        for k, curvature in enumerate(own.diagonal()):
            number = self._grid.numbers.nearest(numbers[k] + slopes[k] * (inverses / curvature))
            by = (numbers[k] - number) * scales
            numbers[k] = number
            change[k] += by
            slopes += own[:, k, None] * by

    def parts(self) -> Parts:
        codes, scales, *_ = self._given
        flat = codes.reshape(len(codes), -1).copy()  # padding keeps its own
        flat[:, : len(self._numbers)] = self._grid.numbers.to_codes(self._numbers.T)
        found = flat.reshape(codes.shape)
        if self._steps is None:
            is_fixed = scales.dtype == np.uint8
            return found, scales if is_fixed else self._scales.T.astype(np.float16)
        units = cast(MinimumParts, self._given)[3:]
        counts = (
            minimum.to_bytes(np.ascontiguousarray(values.T), unit)
            for values, unit in zip((self._scales, self._minima), units, strict=True)
        )
        return found, *counts, *units


def _counted(values: F32, steps: F32, old: F32) -> F32:
    """The nearest that a byte of these steps holds; `old` where a step is zero."""
    counts = np.divide(values, steps, out=np.zeros_like(values), where=steps > 0)
    counts = np.clip(np.rint(counts), 0, minimum.LARGEST_STEP)
    return np.where(steps > 0, counts * steps, old)
