"""Declared sizes: equal to the native module's, and to the bits that the formats promise."""

from __future__ import annotations

import pytest

from tribody import _native
from tribody.precision.formats import (
    FORMATS,
    PANEL_ROWS_FLOAT,
    PANEL_ROWS_W8,
    matrix_bytes,
)
from tribody.precision.quantize import GROUP_SIZE


def test_sizes_are_those_of_the_native_module() -> None:
    assert FORMATS["w8g32"].tile_bytes == _native.W8G32_TILE_BYTES
    assert PANEL_ROWS_W8 == _native.PANEL_ROWS_W8
    assert PANEL_ROWS_FLOAT == _native.PANEL_ROWS_FLOAT
    assert GROUP_SIZE == _native.GROUP_SIZE


def test_bits_per_weight() -> None:
    bits = {name: packed.bits_per_weight for name, packed in FORMATS.items()}
    assert bits == {"float32": 32, "bfloat16": 16, "float16": 16, "w8g32": 8.5}


@pytest.mark.parametrize(
    ("shape", "w8g32", "float16"),
    [
        ((576, 576), 576 * 576 * 34 // 32, 576 * 576 * 2),
        ((1, 1), 272, 32),
        ((9, 33), 2 * 2 * 272, 16 * 33 * 2),
        ((4, 9, 33), 4 * 2 * 2 * 272, 4 * 16 * 33 * 2),
        ((0, 32), 0, 0),
    ],
)
def test_padding_counts(shape: tuple[int, ...], w8g32: int, float16: int) -> None:
    assert matrix_bytes(shape, "w8g32") == w8g32
    assert matrix_bytes(shape, "float16") == float16
    assert matrix_bytes(shape, "float32") == 2 * float16
