"""w5m32 and w4m32: round trips, all codes, errors bounded on both sides, what is not finite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tribody.precision import minimum
from tribody.precision.minimum import MinimumParts
from tribody.precision.quantize import F32

Quantizer = Callable[[F32], MinimumParts]
FORMATS = [(minimum.quantize_w5m32, 31), (minimum.quantize_w4m32, 15)]


@pytest.mark.parametrize(("quantize", "levels"), FORMATS)
def test_every_code_survives_a_round_trip(quantize: Quantizer, levels: int) -> None:
    """Steps of 255 / 256 and a minimum of 255 / 256 times 8: units of 1 and 8, bytes of 255."""
    step = 255 / 256
    codes = np.arange(32) % (levels + 1)
    groups: F32 = (codes * step - 8 * step).astype(np.float32)[None]
    again, scales, minima, scale_units, minimum_units = quantize(groups)
    assert (scale_units.item(), minimum_units.item()) == (1, 8)
    assert (scales.item(), minima.item()) == (255, 255)
    np.testing.assert_array_equal(again[0, 0], codes)
    parts = again, scales, minima, scale_units, minimum_units
    np.testing.assert_array_equal(minimum.dequantize_minimum(*parts, 32), groups)


@pytest.mark.parametrize(("quantize", "levels"), FORMATS)
@pytest.mark.parametrize("columns", [1, 31, 33, 576])
def test_error_is_half_a_step_and_the_rounding_of_the_bytes(
    quantize: Quantizer, levels: int, columns: int
) -> None:
    """A code's half step; at the ends of the range what both bytes were rounded by, half of their
    units' steps, as often as there are codes.  On average the codes' own noise: step^2 / 12, for 30
    weights of 32, because the lowest and the highest are met nearly."""
    weights = np.random.default_rng(1).standard_normal((64, columns), dtype=np.float32)
    parts = quantize(weights)
    codes, scales, _, scale_units, minimum_units = parts
    assert codes.shape == (64, -(-columns // 32), 32)
    assert codes.max() <= levels
    error = weights - minimum.dequantize_minimum(*parts, columns)
    scale_step, minimum_step = (minimum.steps_of(u)[:, None] for u in (scale_units, minimum_units))
    step = np.repeat(scales * scale_step, 32, axis=-1)[:, :columns]
    # 256ths of a unit are rounded to 11 bits, which moves the largest byte by an eighth of a step.
    allowed = 0.51 * step + 0.63 * (levels * scale_step + minimum_step)
    assert (np.abs(error) <= allowed).all()
    if columns == 576:
        assert 0.9 / 12 < np.mean(np.square(error / step)) < 1.1 / 12


@pytest.mark.parametrize(("quantize", "levels"), FORMATS)
def test_groups_of_one_sign_and_of_one_value(quantize: Quantizer, levels: int) -> None:
    """The range holds zero always: positive groups have no minimum, negative ones reach it."""
    rng = np.random.default_rng(2)
    positive = (1 + 0.1 * rng.random((1, 32))).astype(np.float32)
    parts = quantize(positive)
    assert parts[2] == 0
    values = minimum.dequantize_minimum(*parts, 32)
    assert np.abs(values - positive).max() <= 0.51 * positive.max() / levels
    same = np.full((1, 32), -0.25, np.float32)
    np.testing.assert_allclose(minimum.dequantize_minimum(*quantize(same), 32), same, rtol=1e-3)
    zeros = np.zeros((2, 40), np.float32)
    for part in quantize(zeros):
        assert not part.any()


@pytest.mark.parametrize(("quantize", "levels"), FORMATS)
@pytest.mark.parametrize("magnitude", [1e-4, 1e-2, 1.0, 1e4])
def test_the_error_does_not_depend_on_the_magnitude(
    quantize: Quantizer, levels: int, magnitude: float
) -> None:
    """Units near a row's largest scale stay in float16's normal range, down to weights of 1e-3."""
    weights = np.random.default_rng(3).standard_normal((16, 256), dtype=np.float32)
    scaled = weights * np.float32(magnitude)
    error = scaled - minimum.dequantize_minimum(*quantize(scaled), 256)
    plain = weights - minimum.dequantize_minimum(*quantize(weights), 256)
    assert np.sqrt(np.mean(error**2)) < 1.03 * magnitude * np.sqrt(np.mean(plain**2))


@pytest.mark.parametrize(("quantize", "levels"), FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_rows_that_are_not_finite_are_nan(quantize: Quantizer, levels: int, value: float) -> None:
    """The row and no other; 3e38 overflows the float16 unit."""
    weights = np.ones((3, 70), np.float32)
    weights[1, 40] = value
    parts = quantize(weights)
    values = minimum.dequantize_minimum(*parts, 70)
    assert np.isnan(values[1]).all()
    assert np.isfinite(values[[0, 2]]).all()
    assert not parts[0][1].any()
    assert np.isnan(parts[3][1])
