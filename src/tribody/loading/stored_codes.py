"""Stored numbers as parts of a run-time format (precision.codes), bit for bit, without decoding.

    F32, F16, BF16                     float32, float16, bfloat16
    F8_E4M3 with tiles of n x 128 m    fp8b
    Q8_0                               w8g32, unless a code is -128
    MXFP4                              fp4g32

The other types are held exactly by no run-time format but float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.precision.codes import Parts
from tribody.precision.float_codes import FP8_COLUMNS

Bytes = NDArray[np.uint8]
Codes = tuple[WeightFormat, Parts]

LARGEST_FINITE_FP4_SCALE = 252  # the byte of 2^125; 6 * 2^126 is no float32


def _own(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Contiguous, in the machine's byte order."""
    return np.ascontiguousarray(array)


def _f32(rows: Bytes) -> Codes:
    return "float32", (_own(rows.view("<f4")),)


def _f16(rows: Bytes) -> Codes:
    return "float16", (_own(rows.view("<f2")),)


def _bf16(rows: Bytes) -> Codes:
    return "bfloat16", (_own(rows.view("<u2")),)


def _q8_0(rows: Bytes) -> Codes | None:
    blocks = rows.reshape(len(rows), -1, 34)
    codes = _own(blocks[..., 2:].view(np.int8))
    if (codes == np.int8(-128)).any():
        return None
    return "w8g32", (codes, _own(_own(blocks[..., :2]).view("<f2")[..., 0]))


def _mxfp4(rows: Bytes) -> Codes:
    blocks = rows.reshape(len(rows), -1, 17)
    nibbles = blocks[..., 1:]
    codes = np.concatenate([nibbles & np.uint8(0x0F), nibbles >> np.uint8(4)], axis=-1)
    return "fp4g32", (codes, _own(blocks[..., 0]))


_FROM: dict[str, Callable[[Bytes], Codes | None]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "MXFP4": _mxfp4,
}


def codes_of(type_name: str, rows: Bytes) -> Codes | None:
    """The codes of stored rows (N, bytes of a row); None where only float32 holds the numbers."""
    convert = _FROM.get(type_name)
    return None if convert is None else convert(rows)


def fp8_codes(codes: Bytes, scales: NDArray[np.float32], tile: tuple[int, int]) -> Codes | None:
    """E4M3 codes (N, K) and a scale for each tile (rows, columns), as `fp8b`; or None."""
    if tile[1] % FP8_COLUMNS:
        return None
    num_rows, num_columns = codes.shape
    by_row = np.repeat(scales, tile[0], axis=0)[:num_rows]
    by_column = np.repeat(by_row, tile[1] // FP8_COLUMNS, axis=1)
    return "fp8b", (codes, np.ascontiguousarray(by_column[:, : -(-num_columns // FP8_COLUMNS)]))


def all_finite(found: Codes) -> bool:
    """Whether every number that the codes stand for is finite; fp8b is checked where it is read."""
    weight_format, parts = found
    if weight_format == "bfloat16":
        exponents = cast(NDArray[np.uint16], parts[0]) & np.uint16(0x7F80)
        return bool((exponents != np.uint16(0x7F80)).all())
    if weight_format == "fp4g32":
        return bool((cast(Bytes, parts[1]) <= LARGEST_FINITE_FP4_SCALE).all())
    return bool(np.isfinite(cast(NDArray[np.float32], parts[-1])).all())
