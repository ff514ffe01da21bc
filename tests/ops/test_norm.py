"""rms_norm, and the exponential that silu, softmax and the router share."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.cases import EPS, ROWS, assert_close, draw, rows_of
from tribody import _native
from tribody.ops import native, reference


@pytest.mark.parametrize("columns", [1, 7, 8, 33, 576, 1536])
@pytest.mark.parametrize("rows", ROWS)
def test_against_the_reference(isa: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng(1)
    x = rows_of(draw(rng, (rows, columns), "outliers"), strided=True)
    weight = draw(rng, (columns,))
    expected, out = np.empty(x.shape, np.float32), np.empty(x.shape, np.float32)
    reference.OPS.rms_norm(x, weight, 1e-5, expected)
    native.OPS.rms_norm(x, weight, 1e-5, out)
    # The mean of K squares, halved by the root, then four roundings.
    allowed = EPS * (np.sqrt(columns) / 2 + 4) * np.abs(expected) + np.finfo(np.float32).tiny
    assert_close(out, expected, allowed)


def test_in_place_and_in_any_batch(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, weight = draw(rng, (130, 100)), draw(rng, (100,))
    together = np.empty_like(x)
    native.OPS.rms_norm(x, weight, 1e-6, together)
    for row in range(0, 130, 13):
        alone = x[row : row + 1].copy()
        native.OPS.rms_norm(alone, weight, 1e-6, alone)
        np.testing.assert_array_equal(alone[0], together[row])


def exponential(x: np.ndarray[tuple[int], np.dtype[np.float32]]) -> np.ndarray:
    out = np.empty_like(x)
    _native.exponential(x, out)
    return out


def test_exponential_is_within_one_and_a_half_units(isa: str) -> None:
    """Against float64, over the whole range in which the result is normal, and near zero."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(-87.3, 88.7, 200_000), rng.uniform(-1, 1, 200_000)])
    x = x.astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    units = np.abs(exponential(x) - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() < 1.5


def test_exponential_at_the_ends(isa: str) -> None:
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 88.8, 1e30, -104, -1e30], np.float32)
    expected = np.array([1, 1, np.inf, 0, np.nan, np.inf, np.inf, 0, 0], np.float32)
    np.testing.assert_array_equal(exponential(x), expected)
    subnormal = np.linspace(-103.9, -87.4, 1000, dtype=np.float32)
    smallest = np.finfo(np.float32).smallest_subnormal
    # The polynomial's rounding and the last one's: at most one subnormal unit and 1.5 ulp.
    error = np.abs(exponential(subnormal) - np.exp(subnormal.astype(np.float64)))
    assert (error <= 1.01 * smallest + 1.5 * EPS * np.exp(subnormal)).all()


def test_levels_agree_to_the_bit() -> None:
    before, results = _native.current_isa(), []
    x = np.random.default_rng(4).uniform(-110, 95, 4099).astype(np.float32)
    for level in _native.isa_levels():
        _native.set_isa(level)
        results.append(exponential(x))
    _native.set_isa(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
