"""The NumPy reference of the formats whose codes are small floats: fp4g32 and fp8b.

They exist to hold checkpoints that come in these codes, bit for bit.  At its size fp8b is never the
best choice to quantize to; fp4g32 is the smallest, most of all for narrow matrices, because a row
has no units of its own (docs/formats.md).

FP4G32 is MXFP4: groups of 32 along K share a power of two (UE8M0: 2^(byte - 127), 255 is NaN);
codes are E2M1: bit 3 the sign, the others one of 0, 1/2, 1, 3/2, 2, 3, 4, 6.  4.25 bits a weight.
FP8B: codes are E4M3 ("FN": no infinities, NaN only at 0x7F and 0xFF, largest value 448); a row has
one float32 scale for every 128 columns.  So tiles of 128 x 128, whole rows, and matrices joined
from such are held exactly; scales of fewer than 128 columns are not.  8.25 bits per weight.

Source: OCP Microscaling Formats (MX) 1.0, sections 5.3 and 6.3; OCP 8-bit floating point 1.0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tribody.precision.quantize import F32, U8, in_groups, out_of_groups

E2M1_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1_VALUES = np.concatenate([E2M1_VALUES, -E2M1_VALUES])

E2M1_LARGEST_EXPONENT = 2  # of 6 = 1.5 * 2^2
UE8M0_NAN = 255
UE8M0_BIAS = 127


def _e4m3_values() -> F32:
    """The 256 values: sign, 4 exponent bits (bias 7), 3 mantissa bits."""
    codes = np.arange(256)
    exponents, mantissas = (codes >> 3) & 15, codes & 7
    normal = np.ldexp(8.0 + mantissas, exponents - 10)
    values = np.where(exponents == 0, np.ldexp(mantissas, -9), normal)
    values[(codes & 0x7F) == 0x7F] = np.nan
    signed: F32 = np.where(codes & 0x80, -values, values).astype(np.float32)
    return signed


E4M3_VALUES = _e4m3_values()
E4M3_LARGEST = np.float32(448)
E4M3_LARGEST_CODE = 0x7E

FP8_COLUMNS = 128  # of one scale


def power_of_two(scales: U8) -> F32:
    """UE8M0 bytes -> float32, exactly; 0 is 2^-127, which float32 holds as a subnormal."""
    bits = scales.astype(np.uint32) << 23
    bits = np.where(scales == 0, np.uint32(0x00400000), bits)
    return np.where(scales == UE8M0_NAN, np.float32(np.nan), bits.view(np.float32))


def to_e2m1(values: F32) -> U8:
    """The nearest code; ties to the even code; above 6 the largest.  A sign is kept, on 0 too."""
    magnitude = np.abs(values)
    code = (magnitude > 0.25).astype(np.uint8)
    for edge, even_is_below in ((0.75, False), (1.25, True), (1.75, False), (2.5, True)):
        code += magnitude > edge if even_is_below else magnitude >= edge
    code += magnitude >= 3.5
    code += magnitude > 5
    return code | (np.signbit(values).astype(np.uint8) << np.uint8(3))


def exponent_of(largest: F32) -> NDArray[np.int32]:
    """The OCP MX rule: the UE8M0 byte of floor(log2(max|w|)) - 2, at least 0.

    The exponent is read from the bits; it is that of Inf for a group that is not finite.
    """
    exponents = (largest.view(np.uint32) >> 23).astype(np.int32)
    return np.maximum(exponents - E2M1_LARGEST_EXPONENT, 0)


def quantize_fp4g32(weights: F32) -> tuple[U8, U8]:
    """Weights (..., K) -> E2M1 codes (..., G, 32) and UE8M0 scales (..., G).

    The shared exponent is that of the largest magnitude less 2 (OCP MX 6.3), so magnitudes above 6
    times the scale become 6.  A group with Inf or NaN has scale 255 and zeros.
    """
    groups = in_groups(weights)
    largest = np.abs(groups).max(axis=-1)
    finite = np.isfinite(largest)
    scales = np.where(finite, exponent_of(largest), UE8M0_NAN).astype(np.uint8)
    # 2^(127 - byte): exact, and so are the quotients unless they round to 0 anyway.
    inverse = power_of_two((2 * UE8M0_BIAS - np.where(finite, scales, 0)).astype(np.uint8))
    with np.errstate(over="ignore", invalid="ignore"):
        codes = to_e2m1(groups * inverse[..., None])
    return np.where(finite[..., None], codes, np.uint8(0)), scales


def dequantize_fp4g32(codes: U8, scales: U8, columns: int) -> F32:
    """E2M1 codes (..., G, 32) and UE8M0 scales (..., G) -> float32 (..., columns), exactly."""
    return out_of_groups(E2M1_VALUES[codes] * power_of_two(scales)[..., None], columns)


def from_e4m3(codes: U8) -> F32:
    """E4M3 codes -> float32, exactly; 0x7F and 0xFF are NaN."""
    return E4M3_VALUES[codes]


def to_e4m3(values: F32) -> U8:
    """The nearest code, ties to even; magnitudes above 448 become 448.  Values are finite."""
    bits = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    # Rounded at bit 20, which leaves three mantissa bits; the exponent's bias goes from 127 to 7.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20).astype(np.int32) - (120 << 3)
    subnormal = np.rint(np.minimum(np.abs(values), 1) * np.float32(512)).astype(np.int32)
    code = np.where(np.abs(values) < np.float32(2**-6), subnormal, normal)
    sign = np.signbit(values).astype(np.uint8) << np.uint8(7)
    return np.minimum(code, E4M3_LARGEST_CODE).astype(np.uint8) | sign


def _in_columns(values: F32) -> F32:
    """(..., K) -> (..., ceil(K / 128), 128), padded with zeros."""
    *rows, columns = values.shape
    padded = np.zeros((*rows, -(-columns // FP8_COLUMNS) * FP8_COLUMNS), np.float32)
    padded[..., :columns] = values
    return padded.reshape(*rows, padded.shape[-1] // FP8_COLUMNS, FP8_COLUMNS)


def quantize_fp8b(weights: F32) -> tuple[U8, F32]:
    """Weights (..., K) -> E4M3 codes (..., K) and float32 scales (..., ceil(K / 128)).

    scale = max|w| / 448; code = the nearest to w / scale.  128 columns that hold Inf or NaN have
    that scale and zeros.
    """
    wide = _in_columns(weights)
    with np.errstate(over="ignore", invalid="ignore"):
        scales = np.abs(wide).max(axis=-1) / E4M3_LARGEST
        usable = (np.isfinite(scales) & (scales > 0))[..., None]
        quotients = np.divide(wide, scales[..., None], out=np.zeros_like(wide), where=usable)
    codes = to_e4m3(quotients).reshape(*weights.shape[:-1], wide.shape[-2] * FP8_COLUMNS)
    return np.ascontiguousarray(codes[..., : weights.shape[-1]]), scales


def dequantize_fp8b(codes: U8, scales: F32, columns: int) -> F32:
    """E4M3 codes (..., K) and scales (..., ceil(K / 128)) -> float32 (..., K): one product each."""
    assert codes.shape[-1] == columns
    return from_e4m3(codes) * np.repeat(scales, FP8_COLUMNS, axis=-1)[..., :columns]
