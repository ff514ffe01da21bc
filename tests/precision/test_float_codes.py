"""E2M1, E4M3 and UE8M0 against ml_dtypes, and the plain quantizers of fp4g32 and fp8b."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tribody.precision import float_codes
from tribody.precision.quantize import F32

ALL = np.arange(256, dtype=np.uint8)
NUMBERS = ALL[(ALL & 0x7F) != 0x7F]  # E4M3 codes that are not NaN


def around(values: F32) -> F32:
    """The values, those halfway between neighbours, and the floats beside all of them."""
    ordered = np.unique(values)
    points = np.concatenate([ordered, (ordered[1:] + ordered[:-1]) / 2]).astype(np.float32)
    down, up = (np.nextafter(points, np.float32(to)) for to in (-np.inf, np.inf))
    return np.concatenate([points, down, up])


def test_e4m3_values_are_those_of_ml_dtypes() -> None:
    expected = ALL.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values = float_codes.from_e4m3(ALL)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.signbit(values), np.signbit(expected))
    assert list(ALL[np.isnan(values)]) == [0x7F, 0xFF]


def test_e4m3_rounds_as_ml_dtypes_does_and_saturates() -> None:
    every = NUMBERS.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    random = bits.view(np.float32)
    values = np.concatenate([around(every), random[np.isfinite(random)]])
    limited = np.clip(values, -448, 448)
    expected = limited.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(float_codes.to_e4m3(values), expected)


def test_e2m1_values_and_rounding_are_those_of_ml_dtypes() -> None:
    codes = np.arange(16, dtype=np.uint8)
    expected = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(float_codes.E2M1_VALUES, expected)
    values = np.concatenate([around(expected), np.array([0.0, -0.0, 7, -100], np.float32)])
    rounded = np.clip(values, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    np.testing.assert_array_equal(float_codes.to_e2m1(values), rounded)


def test_powers_of_two_are_those_of_ml_dtypes() -> None:
    expected = ALL.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    np.testing.assert_array_equal(float_codes.power_of_two(ALL), expected)


@pytest.mark.parametrize(
    ("largest", "scale"),
    [(4.0, 127), (7.99, 127), (8.0, 128), (6.0, 127), (0.0, 0), (2.0**-126, 0), (1e-45, 0)],
)
def test_the_shared_exponent_is_that_of_the_mx_rule(largest: float, scale: int) -> None:
    """floor(log2(max)) - 2; what lies above 6 times the scale becomes 6 times it."""
    weights = np.zeros((1, 32), np.float32)
    weights[0, 5] = -largest
    codes, scales = float_codes.quantize_fp4g32(weights)
    assert scales[0, 0] == scale
    value = float_codes.dequantize_fp4g32(codes, scales, 32)[0, 5]
    assert value == -min(largest, 6 * 2.0 ** (scale - 127)) or largest == 7.99 or largest < 1e-40


def test_every_mxfp4_value_survives_a_round_trip() -> None:
    """6 in a group fixes its exponent; signs of zero are kept."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 16, (40, 3, 32)).astype(np.uint8)
    codes[..., 0] = 7
    scales = rng.integers(3, 250, (40, 3)).astype(np.uint8)
    values = float_codes.dequantize_fp4g32(codes, scales, 96)
    again, again_scales = float_codes.quantize_fp4g32(values)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(again_scales, scales)


def test_every_fp8b_value_survives_a_round_trip() -> None:
    """448 in each 128 columns and scales that are powers of two: the quotient is exact."""
    rng = np.random.default_rng(3)
    codes = rng.choice(NUMBERS, (20, 300))
    codes[:, ::70] = 0x7E
    scales = (2.0 ** rng.integers(-20, 20, (20, 3))).astype(np.float32)
    values = float_codes.dequantize_fp8b(codes, scales, 300)
    again, again_scales = float_codes.quantize_fp8b(values)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(again_scales, scales)


@pytest.mark.parametrize("columns", [1, 127, 128, 129, 576])
def test_fp8b_error_is_that_of_four_significant_bits(columns: int) -> None:
    """At most one part in 16 of a normal value, half the smallest step below."""
    weights = np.random.default_rng(4).standard_normal((32, columns), dtype=np.float32)
    codes, scales = float_codes.quantize_fp8b(weights)
    assert codes.shape == weights.shape
    assert scales.shape == (32, -(-columns // 128))
    error = np.abs(weights - float_codes.dequantize_fp8b(codes, scales, columns))
    step = np.repeat(scales, 128, axis=-1)[:, :columns]
    assert (error <= np.maximum(np.abs(weights) / 16 * 1.001, step * 2.0**-10)).all()
    if columns == 576:
        assert 0.02 < np.sqrt(np.mean(error**2)) < 0.03


def test_groups_that_are_not_finite_have_no_codes() -> None:
    weights = np.ones((2, 256), np.float32)
    weights[0, 3], weights[1, 130] = np.nan, -np.inf
    codes, fp4_scales = float_codes.quantize_fp4g32(weights)
    assert (fp4_scales == 255).sum() == 2
    assert (fp4_scales[0, 0], fp4_scales[1, 4]) == (255, 255)
    assert not codes[fp4_scales == 255].any()
    fp8, scales = float_codes.quantize_fp8b(weights)
    np.testing.assert_array_equal(np.isfinite(scales), [[False, True], [True, False]])
    assert not fp8[0, :128].any()
    assert not fp8[1, 128:].any()
    assert fp8[0, 128:].all()


def test_magnitudes_at_the_ends_of_float32() -> None:
    """Scales that are subnormal, and the largest weights: finite values, near the weights."""
    for magnitude in (1e-44, 1e-40, 1e-37, 3e38):
        weights = np.full((1, 128), magnitude, np.float32)
        for values in (
            float_codes.dequantize_fp4g32(*float_codes.quantize_fp4g32(weights), 128),
            float_codes.dequantize_fp8b(*float_codes.quantize_fp8b(weights), 128),
        ):
            assert np.isfinite(values).all()
            assert (np.abs(values - weights) <= 0.5 * weights + 1e-40).all()
