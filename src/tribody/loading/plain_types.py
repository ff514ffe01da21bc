"""Decoding the unquantized and FP8 number formats to float32.

F32, F16 and BF16 are shared by safetensors and GGUF.  FP8 E4M3 ("e4m3fn": no infinities, NaN only
at 0x7F and 0xFF, largest value 448) follows the OCP 8-bit floating point specification 1.0.
All conversions are exact: every value of these formats is a float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _e4m3_values() -> NDArray[np.float32]:
    """The 256 values of E4M3: sign, 4 exponent bits (bias 7), 3 mantissa bits."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> 3) & 0xF
    mantissa = codes & 0x7
    normal = (1.0 + mantissa / 8.0) * np.exp2(exponent - 7.0)
    subnormal = mantissa / 8.0 * np.exp2(-6.0)
    values = sign * np.where(exponent == 0, subnormal, normal)
    values[(codes & 0x7F) == 0x7F] = np.nan
    return np.asarray(values, dtype=np.float32)


E4M3_VALUES = _e4m3_values()
E4M3_VALUES.setflags(write=False)


def decode_f32(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Little-endian float32; the result may share memory with `raw`."""
    return raw.view("<f4").astype(np.float32, copy=False)


def decode_f16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Little-endian IEEE half precision."""
    return raw.view("<f2").astype(np.float32)


def decode_bf16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Little-endian bfloat16: the upper half of a float32."""
    wide = raw.view("<u2").astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def decode_e4m3(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """E4M3 codes to float32 before scaling; NaN codes give NaN (see `has_e4m3_nan`)."""
    return E4M3_VALUES[codes]


def has_e4m3_nan(codes: NDArray[np.uint8]) -> bool:
    """Whether a code is one of the two NaNs, 0x7F and 0xFF."""
    return bool(((codes & 0x7F) == 0x7F).any())


def scale_tiles(
    values: NDArray[np.float32],
    scales: NDArray[np.float32],
    tile: tuple[int, int],
    first_row: int,
) -> None:
    """Multiply `values` in place by one scale per tile.

    Shapes: values (R, C) are rows [first_row, first_row + R) of a matrix; scales hold the tiles of
    those rows only: (tile rows touched, ceil(C / tile[1])).
    Source: DeepSeek-V3 README_WEIGHTS.md; the scale is multiplied although the checkpoint calls
    it `weight_scale_inv`.
    """
    num_rows, num_columns = values.shape
    first_tile = first_row // tile[0]
    for index, tile_scales in enumerate(scales):
        start = max((first_tile + index) * tile[0] - first_row, 0)
        stop = min((first_tile + index + 1) * tile[0] - first_row, num_rows)
        values[start:stop] *= np.repeat(tile_scales, tile[1])[:num_columns]
