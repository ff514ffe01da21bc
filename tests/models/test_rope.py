"""Rotary tables: properties that define each kind; exact parity stands in tests/parity."""

import math

import numpy as np

from tribody.models.rope import RopeConfig, RopeTable, inverse_frequencies

EPS = 2.0**-23


def test_default_frequencies() -> None:
    found = inverse_frequencies(RopeConfig(8, 10000.0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [1, 0.1, 0.01, 0.001], rtol=4 * EPS)


def test_linear_divides_all() -> None:
    plain = inverse_frequencies(RopeConfig(16, 1e4))
    linear = inverse_frequencies(RopeConfig(16, 1e4, "linear", 4.0))
    np.testing.assert_allclose(linear * 4, plain, rtol=2 * EPS)


def test_llama3_keeps_short_waves_and_stretches_long_ones() -> None:
    plain = inverse_frequencies(RopeConfig(128, 5e5))
    found = inverse_frequencies(RopeConfig(128, 5e5, "llama3", 8.0, 8192))
    waves = 2 * math.pi / plain
    short, long = waves < 8192 / 4, waves > 8192
    np.testing.assert_array_equal(found[short], plain[short])
    np.testing.assert_allclose(found[long] * 8, plain[long], rtol=2 * EPS)
    between = ~short & ~long
    assert between.any()
    assert (found[between] < plain[between]).all()
    assert (found[between] > plain[between] / 8).all()


def test_yarn_ramp_of_deepseek_v3() -> None:
    """dim 64, theta 10000, 4096 positions: floor(corr(32)) = 10, ceil(corr(1)) = 23."""
    plain = inverse_frequencies(RopeConfig(64, 1e4))
    found = inverse_frequencies(RopeConfig(64, 1e4, "yarn", 40.0, 4096))
    np.testing.assert_allclose(found[:11], plain[:11], rtol=2 * EPS)
    np.testing.assert_allclose(found[23:] * 40, plain[23:], rtol=4 * EPS)
    assert (np.diff(found) < 0).all()


def test_a_positions_row_does_not_depend_on_who_asked_first() -> None:
    rope = RopeConfig(8, 1e4, "yarn", 4.0, 64, attention_factor=1.1)
    near_first, far_first = RopeTable(rope), RopeTable(rope)
    for position in range(0, 5000, 77):
        near_first.rows(np.array([position]))
    wanted = np.array([4999, 0, 1024, 4999])
    for a, b in zip(near_first.rows(wanted), far_first.rows(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == (4, 4)
    cos, sin = far_first.rows(np.array([3]))
    np.testing.assert_allclose(cos**2 + sin**2, 1.1**2, rtol=8 * EPS)
    assert len(far_first.rows(np.array([], np.int64))[0]) == 0
