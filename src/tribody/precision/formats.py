"""The sizes of every run-time number format as native/formats.h packs it.

What the bytes mean stands in `precision.codes` and the modules that it names, where they lie in
`precision.layout`; here is only how many there are, for planning and for `doctor`.  A test compares
these numbers with the native module's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tribody.core.config import WeightFormat

PANEL_ROWS_INT = 8
PANEL_ROWS_FLOAT = 16

ALIGNMENT = 64  # bytes, of a packed matrix's first byte: a cache line, and the widest vector


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """One format: tiles of `panel_rows` x `tile_columns` weights take `tile_bytes`.

    A matrix (N, K) is padded to whole tiles; each panel of rows begins with `header_bytes`.
    `takes_a8`: its activations are rounded to 8 bits in groups of 32; the others meet float32.
    """

    name: WeightFormat
    panel_rows: int
    tile_columns: int
    tile_bytes: int
    header_bytes: int = 0
    takes_a8: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Without padding and headers."""
        return 8 * self.tile_bytes / (self.panel_rows * self.tile_columns)


FORMATS: dict[WeightFormat, PackedFormat] = {
    "float32": PackedFormat("float32", PANEL_ROWS_FLOAT, 1, PANEL_ROWS_FLOAT * 4),
    "bfloat16": PackedFormat("bfloat16", PANEL_ROWS_FLOAT, 1, PANEL_ROWS_FLOAT * 2),
    "float16": PackedFormat("float16", PANEL_ROWS_FLOAT, 1, PANEL_ROWS_FLOAT * 2),
    # 32 signed bytes and one float16 scale for each of 8 rows: 8.5 bits per weight.
    "w8g32": PackedFormat("w8g32", PANEL_ROWS_INT, 32, 8 * (32 + 2), 0, True),
    # Planes of four and of two bits, and the scale: 6.5 bits per weight.
    "w6g32": PackedFormat("w6g32", PANEL_ROWS_INT, 32, 8 * (16 + 8 + 2), 0, True),
    # Planes of four bits and of one, bytes for scale and minimum; two float16 units for each row of
    # a panel: 5.5 bits per weight and 4 bytes a row.
    "w5m32": PackedFormat("w5m32", PANEL_ROWS_INT, 32, 8 * (16 + 4 + 2), 8 * 4, True),
    "w4m32": PackedFormat("w4m32", PANEL_ROWS_INT, 32, 8 * (16 + 2), 8 * 4, True),
    # A plane of four bits and a byte for the exponent: 4.25 bits per weight.
    "fp4g32": PackedFormat("fp4g32", PANEL_ROWS_INT, 32, 8 * (16 + 1), 0, True),
    # 128 bytes and a float32 scale for each of 16 rows: 8.25 bits per weight.
    "fp8b": PackedFormat("fp8b", PANEL_ROWS_FLOAT, 128, 16 * (128 + 4)),
}


def matrix_bytes(shape: Sequence[int], weight_format: WeightFormat) -> int:
    """Bytes that a packed (N, K) or (E, N, K) matrix takes, padding included."""
    packed = FORMATS[weight_format]
    *experts, rows, columns = shape
    panels = -(-rows // packed.panel_rows)
    tiles = -(-columns // packed.tile_columns)
    return prod(experts) * panels * (packed.header_bytes + tiles * packed.tile_bytes)
