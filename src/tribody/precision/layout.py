"""Where the numbers of a packed matrix lie, in NumPy: parts to bytes and back.

The bytes are those of native/formats.h, which draws the tiles; the structured dtypes here have its
fields under its names.  It is the specification of the layout that tests hold the native packer
to, and what `Ops.pack_codes` and `Ops.unpack` run on: a few nanoseconds a weight, paid once,
because what it writes can be kept in a file and mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.precision.codes import FORMS, Parts
from tribody.precision.float_codes import FP8_COLUMNS
from tribody.precision.formats import ALIGNMENT, FORMATS, matrix_bytes
from tribody.precision.quantize import GROUP_SIZE, U8

STEPS = GROUP_SIZE // 4  # a step is four columns of all rows of a panel
ROWS = 8  # of an integer panel

BLOCK_WEIGHTS = 1 << 22  # panels worked on together: bounds the copies to some tens of MB

Array = NDArray[Any]  # of any element type
Panels = NDArray[np.void]  # (P,) of a panel's dtype

_NIBBLES = ("nibbles", "u1", (STEPS // 2, ROWS, 4))
_BYTES = ("scales", "u1", ROWS), ("minima", "u1", ROWS)
_HEADER = [("scale", "<f2", ROWS), ("minimum", "<f2", ROWS)]

# format -> (fields of a panel's header, fields of a tile)
FIELDS: dict[WeightFormat, tuple[list[object], list[object]]] = {
    "float32": ([], [("values", "<f4", 16)]),
    "bfloat16": ([], [("values", "<u2", 16)]),
    "float16": ([], [("values", "<f2", 16)]),
    "w8g32": ([], [("codes", "i1", (STEPS, ROWS, 4)), ("scales", "<f2", ROWS)]),
    "w6g32": (
        [],
        [_NIBBLES, ("pairs", "u1", (STEPS // 4, ROWS, 4)), ("scales", "<f2", ROWS)],
    ),
    "w5m32": (list(_HEADER), [_NIBBLES, ("bits", "u1", (ROWS, 4)), *_BYTES]),
    "w4m32": (list(_HEADER), [_NIBBLES, *_BYTES]),
    "fp4g32": ([], [_NIBBLES, _BYTES[0]]),
    "fp8b": ([], [("codes", "u1", (FP8_COLUMNS, 16)), ("scales", "<f4", 16)]),
}


def panel_dtype(weight_format: WeightFormat, columns: int) -> np.dtype[np.void]:
    """One panel of K columns: `header`, then `tiles`."""
    header, tile = FIELDS[weight_format]
    tiles = -(-columns // FORMATS[weight_format].tile_columns)
    return np.dtype([("header", header), ("tiles", tile, (tiles,))])


def to_steps(codes: Array) -> Array:
    """Rows of groups (P, 8, G, 32) -> steps (P, G, 8 steps, 8 rows, 4)."""
    panels, rows, groups, _ = codes.shape
    return codes.reshape(panels, rows, groups, STEPS, 4).transpose(0, 2, 3, 1, 4)


def from_steps(steps: Array) -> Array:
    """The inverse of `to_steps`."""
    panels, groups, _, rows, _ = steps.shape
    return steps.transpose(0, 3, 1, 2, 4).reshape(panels, rows, groups, GROUP_SIZE)


def _write_planes(codes: U8, tiles: Panels) -> None:
    """Codes of four to six bits (P, 8, G, 32) into `nibbles`, and `bits` or `pairs`."""
    steps = to_steps(codes)
    low, high = steps & np.uint8(15), steps >> np.uint8(4)
    tiles["nibbles"] = low[:, :, 0::2] | low[:, :, 1::2] << np.uint8(4)
    names = tiles.dtype.names or ()
    if "bits" in names:
        tiles["bits"] = np.packbits(high, axis=2, bitorder="little")[:, :, 0]
    if "pairs" in names:
        fours = high.reshape(*high.shape[:2], 2, 4, *high.shape[3:])
        shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None, None]
        tiles["pairs"] = np.bitwise_or.reduce(fours << shifts, axis=3)


def _read_planes(tiles: Panels) -> Array:
    nibbles = tiles["nibbles"]  # (P, G, 4, 8, 4)
    steps = np.empty((*nibbles.shape[:2], STEPS, ROWS, 4), np.uint8)
    steps[:, :, 0::2] = nibbles & np.uint8(15)
    steps[:, :, 1::2] = nibbles >> np.uint8(4)
    names = tiles.dtype.names or ()
    if "bits" in names:
        high = np.unpackbits(tiles["bits"][:, :, None], axis=2, bitorder="little")
        steps |= high << np.uint8(4)
    if "pairs" in names:
        shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None, None]
        fours = (tiles["pairs"][:, :, :, None] >> shifts) & np.uint8(3)
        steps |= fours.reshape(steps.shape) << np.uint8(4)
    return from_steps(steps)


def _in_columns(rows: Array, columns: int) -> Array:
    """(P, R, K) -> (P, columns, R), K padded with zeros."""
    panels, height, given = rows.shape
    padded = np.zeros((panels, columns, height), rows.dtype)
    padded[:, :given] = rows.transpose(0, 2, 1)
    return padded


def _write(weight_format: WeightFormat, parts: Parts, panels: Panels) -> None:
    """Parts, each (P, R, ...) for panels of R rows, into whole panels."""
    tiles = panels["tiles"]
    if weight_format in ("float32", "bfloat16", "float16"):
        tiles["values"] = parts[0].transpose(0, 2, 1)
        return
    tiles["scales"] = parts[1].transpose(0, 2, 1)
    if weight_format == "fp8b":
        columns = _in_columns(parts[0], tiles.shape[1] * FP8_COLUMNS)
        tiles["codes"] = columns.reshape(tiles["codes"].shape)
    elif weight_format == "w8g32":
        tiles["codes"] = to_steps(parts[0])
    else:
        _write_planes(np.asarray(parts[0], np.uint8), tiles)
    if len(parts) == 5:
        tiles["minima"] = parts[2].transpose(0, 2, 1)
        panels["header"]["scale"], panels["header"]["minimum"] = parts[3], parts[4]


def _read(weight_format: WeightFormat, panels: Panels, columns: int) -> Parts:
    tiles = panels["tiles"]
    if weight_format in ("float32", "bfloat16", "float16"):
        return (tiles["values"].transpose(0, 2, 1),)
    scales = tiles["scales"].transpose(0, 2, 1)
    if weight_format == "fp8b":
        by_column = tiles["codes"].reshape(len(tiles), -1, 16)[:, :columns]
        return by_column.transpose(0, 2, 1), scales
    if weight_format == "w8g32":
        return from_steps(tiles["codes"]), scales
    codes = _read_planes(tiles)
    if "minima" not in (tiles.dtype.names or ()):
        return codes, scales
    header = panels["header"]
    return codes, scales, tiles["minima"].transpose(0, 2, 1), header["scale"], header["minimum"]


def _blocks(num_panels: int, panel_weights: int) -> list[slice]:
    """The panels of one matrix, cut so that a block has about BLOCK_WEIGHTS weights."""
    step = max(1, BLOCK_WEIGHTS // max(1, panel_weights))
    return [slice(i, min(i + step, num_panels)) for i in range(0, num_panels, step)]


def _panel_rows(rows: Array, block: slice, height: int) -> Array:
    """Rows (N, ...) of a block of panels as (P, height, ...), filled up with zeros."""
    given = rows[block.start * height : block.stop * height]
    panels = block.stop - block.start
    whole = np.zeros((panels * height, *rows.shape[1:]), rows.dtype)
    whole[: len(given)] = given
    return whole.reshape(panels, height, *rows.shape[1:])


def to_bytes(weight_format: WeightFormat, parts: Parts, shape: Sequence[int]) -> U8:
    """The packed bytes of a matrix (N, K) or a stack (E, N, K).  `parts` fit (`check_parts`)."""
    rows, columns = shape[-2:]
    height = FORMATS[weight_format].panel_rows
    out = np.zeros(matrix_bytes(shape, weight_format), np.uint8)
    if out.size == 0:
        return out
    num_panels = -(-rows // height)
    panels = out.view(panel_dtype(weight_format, columns)).reshape(-1, num_panels)
    for own, expert in zip(panels, np.ndindex(*shape[:-2]), strict=True):
        for block in _blocks(num_panels, height * columns):
            padded = tuple(_panel_rows(part[expert], block, height) for part in parts)
            _write(weight_format, padded, own[block])
    return out


def from_bytes(weight_format: WeightFormat, buffer: U8, shape: Sequence[int]) -> Parts:
    """The parts of a packed matrix or stack; fresh arrays.  The inverse of `to_bytes`."""
    rows, columns = shape[-2:]
    height = FORMATS[weight_format].panel_rows
    parts = tuple(np.empty(p.shape(shape), p.dtype) for p in FORMS[weight_format].parts)
    if buffer.size == 0:
        return parts
    num_panels = -(-rows // height)
    panels = buffer.view(panel_dtype(weight_format, columns)).reshape(-1, num_panels)
    for own, expert in zip(panels, np.ndindex(*shape[:-2]), strict=True):
        for block in _blocks(num_panels, height * columns):
            for part, found in zip(parts, _read(weight_format, own[block], columns), strict=True):
                to = part[expert][block.start * height : block.stop * height]
                to[...] = found.reshape(found.shape[0] * height, *found.shape[2:])[: len(to)]
    return parts


def check_buffer(weight_format: WeightFormat, shape: Sequence[int], buffer: U8) -> None:
    """Refuse bytes that are not a packed matrix of this shape.

    Raises: ShapeError for dtype, axes, size (exactly `matrix_bytes`) or alignment (to 64 bytes).
    """
    if len(shape) not in (2, 3) or min(shape) < 0:
        raise ShapeError(f"shape {tuple(shape)}: expected (N, K) or (E, N, K)")
    expected = matrix_bytes(shape, weight_format)
    if buffer.dtype != np.uint8 or buffer.shape != (expected,) or not buffer.flags.c_contiguous:
        raise ShapeError(
            f"{weight_format} {tuple(shape)}: expected {expected} contiguous bytes, got "
            f"{buffer.dtype} {buffer.shape}"
        )
    if buffer.size and buffer.ctypes.data % ALIGNMENT:
        raise ShapeError(f"{weight_format} {tuple(shape)}: not aligned to {ALIGNMENT} bytes")
