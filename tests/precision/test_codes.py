"""The table of forms: every format is in it, and parts that do not fit are refused."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from tribody.core.config import WeightFormat
from tribody.core.errors import BadModel, ShapeError
from tribody.precision.codes import FORMS, check_parts, decode, encode

FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def test_every_format_has_its_form() -> None:
    assert tuple(FORMS) == FORMATS


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", [(17, 33), (8, 128), (0, 32), (5, 0), (2, 9, 40)])
def test_what_is_encoded_fits_and_has_the_matrix_shape(
    shape: tuple[int, ...], weight_format: WeightFormat
) -> None:
    weights = drawn(*shape)
    parts = encode(weights, weight_format)
    check_parts(weight_format, parts, shape)
    values = decode(weight_format, parts, shape[-1])
    assert values.shape == shape
    assert values.dtype == np.float32
    bits = {"w6g32": 0.1, "w5m32": 0.15, "w4m32": 0.3, "fp4g32": 0.6, "fp8b": 0.1}
    np.testing.assert_allclose(values, weights, atol=bits.get(weight_format, 0.02) * 2, rtol=0)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_stacks_are_their_matrices(weight_format: WeightFormat) -> None:
    weights = drawn(3, 9, 70)
    together = encode(weights, weight_format)
    for expert in range(3):
        for part, own in zip(together, encode(weights[expert], weight_format), strict=True):
            np.testing.assert_array_equal(part[expert], own)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_parts_of_another_shape_dtype_or_number_are_refused(weight_format: WeightFormat) -> None:
    parts = encode(drawn(8, 64), weight_format)
    for shape in [(9, 64), (8, 65), (1, 8, 64)]:
        with pytest.raises(ShapeError):
            check_parts(weight_format, parts, shape)
    with pytest.raises(ShapeError):
        check_parts(weight_format, (*parts, parts[0]), (8, 64))
    for index, part in enumerate(parts):
        others = tuple(p.astype(np.float64) if i == index else p for i, p in enumerate(parts))
        assert part.dtype != np.float64
        with pytest.raises(ShapeError, match="float64"):
            check_parts(weight_format, others, (8, 64))


@pytest.mark.parametrize(
    ("weight_format", "index", "value"),
    [
        ("w8g32", 0, -128),
        ("w6g32", 0, 64),
        ("w5m32", 0, 32),
        ("w4m32", 0, 16),
        ("fp4g32", 0, 16),
        ("fp4g32", 1, 255),
        ("fp8b", 0, 0x7F),
        ("fp8b", 0, 0xFF),
    ],
)
def test_codes_that_a_format_cannot_hold_are_refused(
    weight_format: WeightFormat, index: int, value: int
) -> None:
    parts = encode(drawn(8, 64), weight_format)
    parts[index].reshape(-1)[7] = value
    with pytest.raises(BadModel, match=weight_format):
        check_parts(weight_format, parts, (8, 64))
