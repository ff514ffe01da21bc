"""The reference of the symmetric formats: round trips, all codes, errors bounded on both sides."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tribody.precision import quantize
from tribody.precision.quantize import F32


def test_bfloat16_rounds_as_ml_dtypes_does() -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(quantize.to_bfloat16_bits(values), expected)


def test_every_bfloat16_survives_a_round_trip() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    values = quantize.from_bfloat16_bits(every)
    back = quantize.to_bfloat16_bits(values)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(back[number], every[number])
    assert np.isnan(quantize.from_bfloat16_bits(back[~number])).all()


def test_every_w8g32_code_survives_a_round_trip() -> None:
    """All 255 codes under a scale of one half; 127 in each group fixes the scale."""
    codes = np.arange(-127, 128, dtype=np.float32)
    padded = np.concatenate([codes, np.zeros(24, np.float32)]).reshape(9, 31)
    anchored = np.concatenate([padded, np.full((9, 1), 127, np.float32)], axis=1)
    groups: F32 = (anchored / 2).astype(np.float32)
    again, scales = quantize.quantize_w8g32(groups)
    np.testing.assert_array_equal(scales, np.float16(0.5))
    np.testing.assert_array_equal(quantize.dequantize_w8g32(again, scales, 32), groups)


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 576])
def test_w8g32_error_is_uniform_in_half_a_step(columns: int) -> None:
    """Inside half a step (the float16 scale may clip the largest by a little more), and, where
    there are values enough, with the variance of rounding: step^2 / 12, not less."""
    weights = np.random.default_rng(2).standard_normal((64, columns), dtype=np.float32)
    codes, scales = quantize.quantize_w8g32(weights)
    assert codes.shape == (64, -(-columns // 32), 32)
    assert codes.min() >= -127
    error = weights - quantize.dequantize_w8g32(codes, scales, columns)
    step = np.repeat(scales.astype(np.float32), 32, axis=-1)[:, :columns]
    clipped = 127 * 2.0**-11  # steps by which a rounded scale falls short of max / 127
    assert (np.abs(error) <= step * (0.5 + clipped)).all()
    if columns >= 32:
        relative = np.mean(np.square(error / step)[:, : columns // 32 * 32])
        assert 0.9 / 12 < relative < 1.1 / 12


def test_every_w6g32_code_survives_a_round_trip() -> None:
    """Codes 1 to 63 under a scale of one half; 63 in each group fixes the scale."""
    values = np.arange(-31, 32, dtype=np.float32) / 2
    padded = np.concatenate([values, np.zeros(30, np.float32)]).reshape(3, 31)
    anchored = np.concatenate([padded, np.full((3, 1), 15.5, np.float32)], axis=1)
    codes, scales = quantize.quantize_w6g32(anchored)
    np.testing.assert_array_equal(scales, np.float16(0.5))
    assert (codes.min(), codes.max()) == (1, 63)
    np.testing.assert_array_equal(quantize.dequantize_w6g32(codes, scales, 32), anchored)


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 576])
def test_w6g32_error_is_uniform_in_half_a_step(columns: int) -> None:
    weights = np.random.default_rng(2).standard_normal((64, columns), dtype=np.float32)
    codes, scales = quantize.quantize_w6g32(weights)
    assert codes.shape == (64, -(-columns // 32), 32)
    assert codes.min() >= 1
    assert codes.max() <= 63
    error = weights - quantize.dequantize_w6g32(codes, scales, columns)
    step = np.repeat(scales.astype(np.float32), 32, axis=-1)[:, :columns]
    clipped = 31 * 2.0**-11
    assert (np.abs(error) <= step * (0.5 + clipped)).all()
    if columns >= 32:
        relative = np.mean(np.square(error / step)[:, : columns // 32 * 32])
        assert 0.9 / 12 < relative < 1.1 / 12


def test_a8_error_is_uniform_in_half_a_step() -> None:
    x = np.random.default_rng(3).standard_normal((64, 576), dtype=np.float32)
    codes, scales = quantize.quantize_a8(x)
    error = x.reshape(64, -1, 32) - codes * scales[..., None]
    assert np.abs(codes).max() == 127
    assert (np.abs(error) <= 0.5001 * scales[..., None]).all()
    assert 0.9 / 12 < np.mean(np.square(error / scales[..., None])) < 1.1 / 12


def test_groups_of_zeros_have_no_scale() -> None:
    zeros = np.zeros((2, 40), np.float32)
    for codes, scales in (quantize.quantize_w8g32(zeros), quantize.quantize_a8(zeros)):
        assert not codes.any()
        assert not scales.any()
    w6_codes, w6_scales = quantize.quantize_w6g32(zeros)
    assert (w6_codes == 32).all()
    assert not w6_scales.any()


@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 3e-37])
def test_groups_too_small_to_invert_are_zeros(magnitude: float) -> None:
    """127 / max|x| overflows float32 there; the codes used to be undefined."""
    x = np.full((1, 32), magnitude, np.float32)
    codes, scales = quantize.quantize_a8(x)
    assert not codes.any()
    assert not scales.any()
