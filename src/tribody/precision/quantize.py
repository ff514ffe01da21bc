"""The NumPy reference of every run-time number format: what the bytes mean, before any layout.

It defines values, not speed.  Native code packs the same numbers into its own panels, and
tests hold the two together.  float32, bfloat16 and float16 are plain casts (round to nearest,
ties to even).

W8G32: each row is cut into groups of 32 along K (the last one padded with zeros); a group has one
float16 scale and 32 signed bytes in [-127, 127]; value = byte * scale.  8.5 bits per weight.
Activations meet such weights as A8: the same groups and bytes, with a float32 scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

GROUP_SIZE = 32

SMALLEST_MAGNITUDE = np.float32(1e-36)
# Activations whose largest is not above this are zeros: 127 / max|x| would overflow float32.


def _groups(values: F32) -> F32:
    """(..., K) -> (..., ceil(K / 32), 32), padded with zeros."""
    pad = -values.shape[-1] % GROUP_SIZE
    if pad:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], pad), np.float32)], axis=-1)
    return values.reshape(*values.shape[:-1], values.shape[-1] // GROUP_SIZE, GROUP_SIZE)


def quantize_w8g32(weights: F32) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Weights (..., K) -> bytes (..., G, 32) and float16 scales (..., G), G = ceil(K / 32).

    scale = max|w| / 127 rounded to float16; byte = round-half-even(w / that rounded scale),
    clipped to [-127, 127].  A group whose scale rounds to zero stores zeros.
    """
    groups = _groups(weights)
    scales = (np.abs(groups).max(axis=-1) / np.float32(127)).astype(np.float16)
    wide = scales.astype(np.float32)[..., None]
    inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide > 0)
    codes = np.clip(np.rint(groups * inverse), -127, 127).astype(np.int8)
    return codes, scales


def dequantize_w8g32(codes: NDArray[np.int8], scales: NDArray[np.float16], columns: int) -> F32:
    """Bytes (..., G, 32) and scales (..., G) -> float32 (..., columns)."""
    values = codes.astype(np.float32) * scales.astype(np.float32)[..., None]
    flat = values.reshape(*codes.shape[:-2], codes.shape[-2] * GROUP_SIZE)
    return np.ascontiguousarray(flat[..., :columns])


def quantize_a8(activations: F32) -> tuple[NDArray[np.int8], F32]:
    """Activations (..., K) -> bytes (..., G, 32) and float32 scales (..., G).

    scale = max|x| / 127 in float32; byte = round-half-even(x * (127 / max|x|)).  A group whose
    largest is at most SMALLEST_MAGNITUDE has zeros and scale 0.
    """
    groups = _groups(activations)
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
