"""Declared sizes: equal to the native module's, and to the bits that the formats promise."""

from __future__ import annotations

from typing import get_args

import pytest

from tribody import _native
from tribody.core.config import WeightFormat
from tribody.precision.formats import FORMATS, matrix_bytes
from tribody.precision.layout import panel_dtype


def test_sizes_are_those_of_the_native_module() -> None:
    declared = [
        (f.name, f.panel_rows, f.tile_columns, f.tile_bytes, f.header_bytes, f.takes_a8)
        for f in FORMATS.values()
    ]
    assert declared == _native.format_sizes()


@pytest.mark.parametrize("weight_format", FORMATS)
def test_sizes_are_those_of_the_layout(weight_format: WeightFormat) -> None:
    own = FORMATS[weight_format]
    assert FORMATS[own.name] is own
    for columns in (1, 33, 576):
        shape = (own.panel_rows, columns)
        assert panel_dtype(weight_format, columns).itemsize == matrix_bytes(shape, weight_format)


def test_bits_per_weight() -> None:
    assert tuple(FORMATS) == get_args(WeightFormat)
    bits = {name: packed.bits_per_weight for name, packed in FORMATS.items()}
    assert bits == {
        "float32": 32,
        "bfloat16": 16,
        "float16": 16,
        "w8g32": 8.5,
        "w6g32": 6.5,
        "w5m32": 5.5,
        "w4m32": 4.5,
        "fp4g32": 4.25,
        "fp8b": 8.25,
    }


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


def test_headers_and_wide_tiles_count() -> None:
    """The units of each panel of w4m32, and the padding of fp8b to 128 columns."""
    assert matrix_bytes((9, 33), "w4m32") == 2 * (32 + 2 * 144)
    assert matrix_bytes((2, 17, 576), "fp8b") == 2 * 2 * 5 * 2112
