"""What the codes of one matrix may become while its other parts stay: value = number * scale -
minimum, where a code stands for a number of its format's.

Of the formats that `precision.compensate` and `precision.descend` choose codes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.precision import float_codes, minimum, quantize
from tribody.precision.codes import Parts
from tribody.precision.minimum import MinimumParts
from tribody.precision.quantize import F32

Codes = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What codes stand for.  `nearest` of any numbers those that a code has."""

    nearest: Callable[[F32], F32]
    of_codes: Callable[[Codes], F32]
    to_codes: Callable[[F32], Codes]


@dataclass(frozen=True, slots=True)
class Grid:
    """Of a matrix (N, K): `scales` and `minima` are float32 (N, G)."""

    numbers: Numbers
    scales: F32
    minima: F32

    def rows(self, rows: slice) -> Grid:
        return replace(self, scales=self.scales[rows], minima=self.minima[rows])

    def is_finite(self) -> bool:
        return bool(np.isfinite(self.scales).all())


def _integers(low: int, high: int, centre: int, dtype: type[np.integer[Any]]) -> Numbers:
    """Codes are numbers + centre."""

    def nearest(values: F32) -> F32:
        whole = np.rint(values)
        return np.clip(whole, low, high, out=whole)

    return Numbers(
        nearest,
        lambda codes: codes.astype(np.float32) - np.float32(centre),
        lambda numbers: (numbers + np.float32(centre)).astype(dtype),
    )


def _e2m1_nearest(values: F32) -> F32:
    found: F32 = float_codes.E2M1_VALUES[float_codes.to_e2m1(values)]
    return found


E2M1 = Numbers(_e2m1_nearest, lambda codes: float_codes.E2M1_VALUES[codes], float_codes.to_e2m1)


def _without_minimum(numbers: Numbers, scale_of: Callable[[Codes], F32]) -> Callable[[Parts], Grid]:
    def grid(parts: Parts) -> Grid:
        scales = scale_of(parts[1])
        return Grid(numbers, scales, np.zeros_like(scales))

    return grid


def _with_minimum(numbers: Numbers) -> Callable[[Parts], Grid]:
    def grid(parts: Parts) -> Grid:
        _, scales, minima, *units = cast(MinimumParts, parts)
        by_scale, by_minimum = (minimum.steps_of(unit)[..., None] for unit in units)
        return Grid(numbers, scales * by_scale, minima * by_minimum)

    return grid


def _as_float32(scales: Codes) -> F32:
    return scales.astype(np.float32)


W8 = _integers(-quantize.LEVELS_W8, quantize.LEVELS_W8, 0, np.int8)
W6 = _integers(-quantize.LEVELS_W6, quantize.LEVELS_W6, quantize.CENTRE_W6, np.uint8)

GRIDS: dict[WeightFormat, Callable[[Parts], Grid]] = {
    "w8g32": _without_minimum(W8, _as_float32),
    "w6g32": _without_minimum(W6, _as_float32),
    "w5m32": _with_minimum(_integers(0, minimum.LEVELS_W5, 0, np.uint8)),
    "w4m32": _with_minimum(_integers(0, minimum.LEVELS_W4, 0, np.uint8)),
    "fp4g32": _without_minimum(E2M1, float_codes.power_of_two),
}
