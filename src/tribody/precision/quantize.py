"""The NumPy reference of the symmetric number formats: what the bytes mean, before any layout.

It defines values, not speed.  Native code packs the same numbers into its own panels, and
tests hold the two together.  float32, bfloat16 and float16 are plain casts (round to nearest,
ties to even).  Formats with a minimum stand in `precision.minimum`, those of float codes in
`precision.float_codes`; `precision.codes` is the table of them all.

W8G32: each row is cut into groups of 32 along K (the last one padded with zeros); a group has one
float16 scale and 32 signed bytes in [-127, 127]; value = byte * scale.  8.5 bits per weight.
W6G32: the same groups with codes 1 to 63; value = (code - 32) * scale.  6.5 bits per weight.
Activations meet such weights as A8: the same groups and bytes, with a float32 scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F16 = NDArray[np.float16]
U8 = NDArray[np.uint8]

GROUP_SIZE = 32

LEVELS_W8 = 127
LEVELS_W6 = 31
CENTRE_W6 = 32  # the code of zero

SMALLEST_MAGNITUDE = np.float32(1e-36)
# Activations whose largest is not above this are zeros: 127 / max|x| would overflow float32.


def in_groups(values: F32) -> F32:
    """(..., K) -> (..., ceil(K / 32), 32), padded with zeros."""
    pad = -values.shape[-1] % GROUP_SIZE
    if pad:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], pad), np.float32)], axis=-1)
    return values.reshape(*values.shape[:-1], values.shape[-1] // GROUP_SIZE, GROUP_SIZE)


def out_of_groups(groups: F32, columns: int) -> F32:
    """(..., G, 32) -> (..., columns), without the padding."""
    flat = groups.reshape(*groups.shape[:-2], groups.shape[-2] * GROUP_SIZE)
    return np.ascontiguousarray(flat[..., :columns])


def inverse_of(scales: F32) -> F32:
    """1 / scale, and 0 where the scale is 0 or not a number: such a group's codes are zeros."""
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)


def _quantize_symmetric(weights: F32, levels: int) -> tuple[F32, F16]:
    """Codes in [-levels, levels], still float32, and scales.

    scale = max|w| / levels rounded to float16; code = round-half-even(w / that rounded scale),
    clipped.  A group whose scale rounds to zero has zeros; one that holds Inf or NaN has zeros and
    that scale.
    """
    groups = in_groups(weights)
    with np.errstate(over="ignore", invalid="ignore"):
        scales = (np.abs(groups).max(axis=-1) / np.float32(levels)).astype(np.float16)
        codes = np.rint(groups * inverse_of(scales.astype(np.float32))[..., None])
    codes = np.where(np.isfinite(scales)[..., None], codes, np.float32(0))
    return np.clip(codes, -levels, levels), scales


def quantize_w8g32(weights: F32) -> tuple[NDArray[np.int8], F16]:
    """Weights (..., K) -> bytes (..., G, 32) and float16 scales (..., G), G = ceil(K / 32)."""
    codes, scales = _quantize_symmetric(weights, LEVELS_W8)
    return codes.astype(np.int8), scales


def dequantize_w8g32(codes: NDArray[np.int8], scales: F16, columns: int) -> F32:
    """Bytes (..., G, 32) and scales (..., G) -> float32 (..., columns)."""
    values = codes.astype(np.float32) * scales.astype(np.float32)[..., None]
    return out_of_groups(values, columns)


def quantize_w6g32(weights: F32) -> tuple[U8, F16]:
    """Weights (..., K) -> codes 1 to 63 (..., G, 32) and float16 scales (..., G)."""
    codes, scales = _quantize_symmetric(weights, LEVELS_W6)
    return (codes + np.float32(CENTRE_W6)).astype(np.uint8), scales


def dequantize_w6g32(codes: U8, scales: F16, columns: int) -> F32:
    """Codes (..., G, 32) and scales (..., G) -> float32 (..., columns)."""
    centred = codes.astype(np.float32) - np.float32(CENTRE_W6)
    return out_of_groups(centred * scales.astype(np.float32)[..., None], columns)


def quantize_a8(activations: F32) -> tuple[NDArray[np.int8], F32]:
    """Activations (..., K) -> bytes (..., G, 32) and float32 scales (..., G).

    scale = max|x| / 127 in float32; byte = round-half-even(x * (127 / max|x|)).  A group whose
    largest is at most SMALLEST_MAGNITUDE has zeros and scale 0.
    """
    groups = in_groups(activations)
    largest = np.abs(groups).max(axis=-1)
    largest = np.where(largest > SMALLEST_MAGNITUDE, largest, np.float32(0))
    scales = (largest / np.float32(127)).astype(np.float32)
    inverse = np.divide(
        np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0, dtype=np.float32
    )
    codes = np.rint(groups * inverse[..., None]).astype(np.int8)
    return codes, scales


def to_bfloat16_bits(values: F32) -> NDArray[np.uint16]:
    """float32 -> the upper 16 bits, rounded to nearest, ties to even (NaN stays NaN)."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bfloat16_bits(bits: NDArray[np.uint16]) -> F32:
    """bfloat16 bits -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
