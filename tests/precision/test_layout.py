"""Where the bytes lie: single codes at the places that native/formats.h draws, and round trips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.precision import layout
from tribody.precision.codes import FORMS, encode
from tribody.precision.formats import matrix_bytes
from tribody.precision.layout import check_buffer, from_bytes, to_bytes

SHAPES = [(1, 1), (17, 33), (8, 32), (40, 576), (9, 100), (0, 32), (5, 0), (3, 17, 33), (2, 8, 64)]


def zeros_of(weight_format: WeightFormat, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [np.zeros(part.shape(shape), part.dtype) for part in FORMS[weight_format].parts]


@pytest.mark.parametrize("weight_format", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_survive_a_round_trip(shape: tuple[int, ...], weight_format: WeightFormat) -> None:
    """Random bits in every part: codes that no quantizer would make keep their places, too."""
    rng = np.random.default_rng(1)
    largest = {"w6g32": 63, "w5m32": 31, "w4m32": 15, "fp4g32": 15}.get(weight_format, 255)
    parts = []
    for form in FORMS[weight_format].parts:
        raw = rng.integers(0, 256, (*form.shape(shape), np.dtype(form.dtype).itemsize), np.uint8)
        if form.name == "codes":
            raw = np.minimum(raw, largest).astype(np.uint8)
        parts.append(raw.view(form.dtype).reshape(form.shape(shape)))
    packed = to_bytes(weight_format, tuple(parts), shape)
    assert packed.size == matrix_bytes(shape, weight_format)
    for part, again in zip(parts, from_bytes(weight_format, packed, shape), strict=True):
        assert part.tobytes() == again.tobytes()


@pytest.mark.parametrize(
    ("weight_format", "row", "column", "code", "expected"),
    # Panel, group and place by hand: a panel of 8 rows has two tiles here, 64 columns.  Column 45
    # is group 1, step 3, byte 1; column 31 is group 0, step 7, byte 3.
    [
        ("w8g32", 10, 45, -3, {2 * 272 + 272 + (3 * 8 + 2) * 4 + 1: 0xFD}),
        ("w6g32", 10, 45, 0x2B, {3 * 208 + (1 * 8 + 2) * 4 + 1: 0xB0,
                                 3 * 208 + 128 + 2 * 4 + 1: 2 << 6}),
        ("w6g32", 0, 31, 0x1E, {3 * 32 + 3: 0xE0, 128 + 32 + 3: 1 << 6}),
        ("w5m32", 10, 45, 0x1B, {32 + 2 * 176 + 32 + 176 + (1 * 8 + 2) * 4 + 1: 0xB0,
                                 32 + 2 * 176 + 32 + 176 + 128 + 2 * 4 + 1: 1 << 3}),
        ("w4m32", 10, 45, 0xB, {32 + 2 * 144 + 32 + 144 + (1 * 8 + 2) * 4 + 1: 0xB0}),
        ("w4m32", 1, 3, 0xB, {32 + 1 * 4 + 3: 0x0B}),
        ("fp4g32", 10, 45, 0xB, {3 * 136 + (1 * 8 + 2) * 4 + 1: 0xB0}),
        ("fp8b", 10, 45, 0xB, {45 * 16 + 10: 0x0B}),
    ],
)  # fmt: skip
def test_a_single_code_lies_where_it_is_drawn(
    weight_format: WeightFormat, row: int, column: int, code: int, expected: dict[int, int]
) -> None:
    shape = (16, 64)
    parts = zeros_of(weight_format, shape)
    place = (row, column) if weight_format == "fp8b" else (row, column // 32, column % 32)
    parts[0][place] = code
    packed = to_bytes(weight_format, tuple(parts), shape)
    assert {int(i): int(packed[i]) for i in np.flatnonzero(packed)} == expected


@pytest.mark.parametrize(
    ("weight_format", "part", "place", "expected"),
    [
        ("w8g32", 1, (10, 1), 3 * 272 + 256 + 2 * 2),
        ("w6g32", 1, (10, 1), 3 * 208 + 192 + 2 * 2),
        ("w4m32", 1, (10, 1), 2 * 32 + 3 * 144 + 128 + 2),
        ("w4m32", 2, (10, 1), 2 * 32 + 3 * 144 + 136 + 2),
        ("w4m32", 3, (10,), 32 + 2 * 144 + 2 * 2),
        ("w4m32", 4, (10,), 32 + 2 * 144 + 16 + 2 * 2),
        ("w5m32", 1, (10, 1), 2 * 32 + 3 * 176 + 160 + 2),
        ("w5m32", 2, (10, 1), 2 * 32 + 3 * 176 + 168 + 2),
        ("fp4g32", 1, (10, 1), 3 * 136 + 128 + 2),
        ("fp8b", 1, (10, 0), 2048 + 10 * 4),
    ],
)
def test_a_single_scale_lies_where_it_is_drawn(
    weight_format: WeightFormat, part: int, place: tuple[int, ...], expected: int
) -> None:
    shape = (16, 64)
    parts = zeros_of(weight_format, shape)
    parts[part].view(f"u{parts[part].itemsize}")[place] = 1
    packed = to_bytes(weight_format, tuple(parts), shape)
    assert np.flatnonzero(packed).tolist() == [expected]


def test_blocks_of_panels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(2).standard_normal((2, 50, 64), dtype=np.float32)
    for weight_format in FORMS:
        parts = encode(weights, weight_format)
        whole = to_bytes(weight_format, parts, weights.shape)
        with monkeypatch.context() as patch:
            patch.setattr(layout, "BLOCK_WEIGHTS", 1000)
            np.testing.assert_array_equal(to_bytes(weight_format, parts, weights.shape), whole)
            again = from_bytes(weight_format, whole, weights.shape)
        for part, own in zip(parts, again, strict=True):
            np.testing.assert_array_equal(part, own)


def test_buffers_that_do_not_fit_are_refused() -> None:
    memory = np.zeros(4096, np.uint8)
    first = -memory.ctypes.data % 64
    size = matrix_bytes((8, 64), "w4m32")
    check_buffer("w4m32", (8, 64), memory[first : first + size])
    wrongs: tuple[NDArray[Any], ...] = (
        memory[first : first + size - 1],
        memory[first + 1 : first + 1 + size],
        memory[first : first + 2 * size : 2],
        memory[first : first + size].view(np.bool_),
        memory[first : first + size][None],
    )
    for wrong in wrongs:
        with pytest.raises(ShapeError):
            check_buffer("w4m32", (8, 64), wrong)
    with pytest.raises(ShapeError):
        check_buffer("w4m32", (64,), memory[first : first + size])
