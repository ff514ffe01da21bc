"""The sizes of every run-time number format as native/formats.h packs it.

What the bytes mean stands in `precision.quantize`; here is only how many there are, for planning
and for `doctor`.  A test compares these numbers with the native module's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tribody.core.config import WeightFormat
from tribody.precision.quantize import GROUP_SIZE


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """One format: tiles of `panel_rows` x `tile_columns` weights take `tile_bytes`.

    A matrix (N, K) is padded to whole tiles.
    """

    name: WeightFormat
    panel_rows: int
    tile_columns: int
    tile_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Without padding."""
        return 8 * self.tile_bytes / (self.panel_rows * self.tile_columns)


PANEL_ROWS_W8 = 8
PANEL_ROWS_FLOAT = 16

FORMATS: dict[WeightFormat, PackedFormat] = {
    "float32": PackedFormat("float32", PANEL_ROWS_FLOAT, 1, PANEL_ROWS_FLOAT * 4),
    "bfloat16": PackedFormat("bfloat16", PANEL_ROWS_FLOAT, 1, PANEL_ROWS_FLOAT * 2),
    "float16": PackedFormat("float16", PANEL_ROWS_FLOAT, 1, PANEL_ROWS_FLOAT * 2),
    # 32 signed bytes and one float16 scale for each of 8 rows: 8.5 bits per weight.
    "w8g32": PackedFormat("w8g32", PANEL_ROWS_W8, GROUP_SIZE, PANEL_ROWS_W8 * (GROUP_SIZE + 2)),
}


def matrix_bytes(shape: Sequence[int], weight_format: WeightFormat) -> int:
    """Bytes that a packed (N, K) or (E, N, K) matrix takes, padding included."""
    packed = FORMATS[weight_format]
    *experts, rows, columns = shape
    panels = -(-rows // packed.panel_rows)
    tiles = -(-columns // packed.tile_columns)
    return prod(experts) * panels * tiles * packed.tile_bytes
