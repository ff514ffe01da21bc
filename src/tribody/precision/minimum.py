"""The NumPy reference of w5m32 and w4m32: unsigned codes, and a minimum for each group.

A row is cut into groups of 32 along K (the last one padded with zeros).  The row has two float16
units, a group has an unsigned byte for its scale and one for its minimum, counted in 256ths of
the units, and 32 codes of 5 or 4 bits:

    value = (scale_unit / 256 * scale) * code - minimum_unit / 256 * minimum

The 256ths keep the units near the largest scale and minimum of the row, inside float16's normal
range for the weights that models have; both products are exact in float32, so only the difference
rounds.  5.5 and 4.5 bits per weight, and 4 bytes a row.

The minimum is unsigned, so that a group's range always holds zero, as in llama.cpp's Q4_K.  On
Gaussian, heavy-tailed and trained weights a group of 32 whose weights all have one sign does not
happen, and a sign would cost the bit that makes the minimum's step half as large; docs/formats.md
has the figures.
"""

from __future__ import annotations

import numpy as np

from tribody.precision.quantize import F16, F32, U8, in_groups, inverse_of, out_of_groups

MinimumParts = tuple[U8, U8, U8, F16, F16]
# Codes (..., G, 32), scales (..., G), minima (..., G), scale units (...), minimum units (...).

LEVELS_W5, LEVELS_W4 = 31, 15  # the largest code

STEPS = np.float32(256)  # of a unit
LARGEST_STEP = np.float32(255)  # what a byte holds


def to_units(largest: F32) -> F16:
    """The float16 units under which rows whose largest scale is this use all of a byte."""
    with np.errstate(over="ignore"):
        return (largest / LARGEST_STEP * STEPS).astype(np.float16)


def steps_of(units: F16) -> F32:
    """What one step of a byte is worth, float32: exact."""
    return units.astype(np.float32) / STEPS


def to_bytes(values: F32, units: F16) -> U8:
    """Values (N, G) in steps of their row's units (N,), rounded half to even and limited."""
    steps = np.broadcast_to(steps_of(units)[..., None], values.shape)
    counts = np.divide(values, steps, out=np.zeros_like(values), where=steps > 0)
    return np.clip(np.rint(counts), 0, LARGEST_STEP).astype(np.uint8)


def nearest_codes(groups: F32, scales: F32, minima: F32, levels: int) -> F32:
    """round-half-even((w + minimum) / scale), limited to [0, levels]; zeros where scale is 0.

    Shapes: groups (..., G, 32), scales and minima (..., G); the codes are still float32.
    """
    counts = (groups + minima[..., None]) * inverse_of(scales)[..., None]
    np.rint(counts, out=counts)
    return np.clip(counts, 0, levels, out=counts)


def _quantize(weights: F32, levels: int) -> MinimumParts:
    """Units from the row's largest range and minimum; bytes and codes by rounding to them.

    A row that holds Inf or NaN, or whose units overflow float16, is NaN: units NaN, all else 0.
    """
    groups = in_groups(weights)
    with np.errstate(over="ignore", invalid="ignore"):
        depths = np.float32(0) - np.minimum(groups.min(axis=-1), np.float32(0))
        ranges = (groups.max(axis=-1) + depths) / np.float32(levels)  # of one code
        units = [to_units(values.max(axis=-1, initial=0)) for values in (ranges, depths)]
    broken = ~(np.isfinite(units[0]) & np.isfinite(units[1]))
    groups = np.where(broken[..., None, None], np.float32(0), groups)
    usable = [np.where(broken, np.float16(0), unit) for unit in units]
    with np.errstate(invalid="ignore"):
        scales, minima = to_bytes(ranges, usable[0]), to_bytes(depths, usable[1])
    real = scales * steps_of(usable[0])[..., None], minima * steps_of(usable[1])[..., None]
    scale_units, minimum_units = (np.where(broken, np.float16(np.nan), unit) for unit in units)
    codes = nearest_codes(groups, *real, levels).astype(np.uint8)
    return codes, scales, minima, scale_units, minimum_units


def quantize_w5m32(weights: F32) -> MinimumParts:
    """Weights (..., K) -> parts with codes in [0, 31]."""
    return _quantize(weights, LEVELS_W5)


def quantize_w4m32(weights: F32) -> MinimumParts:
    """Weights (..., K) -> parts with codes in [0, 15]."""
    return _quantize(weights, LEVELS_W4)


def dequantize_minimum(
    codes: U8, scales: U8, minima: U8, scale_units: F16, minimum_units: F16, columns: int
) -> F32:
    """The parts of w5m32 or w4m32 -> float32 (..., columns)."""
    real = scales * steps_of(scale_units)[..., None], minima * steps_of(minimum_units)[..., None]
    return out_of_groups(codes * real[0][..., None] - real[1][..., None], columns)
