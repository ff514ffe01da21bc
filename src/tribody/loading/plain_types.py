"""Decoding F32, F16 and BF16, which safetensors and GGUF share, and what DeepSeek's FP8 needs
beside its values (precision.float_codes): NaN codes are found, scales of tiles spread.

All conversions are exact: every value of these formats is a float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
