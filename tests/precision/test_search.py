"""Searching quantizers: never worse than the plain ones, and better where it matters."""

from __future__ import annotations

import numpy as np
import pytest

from tribody.core.config import WeightFormat
from tribody.precision import search
from tribody.precision.codes import check_parts, decode, encode
from tribody.precision.quantize import F32
from tribody.precision.search import SEARCHES, weighted_error

ROUNDING = 1e-5  # relative: errors are compared in float32 inside, in float64 here


def errors(
    weights: F32, weight_format: WeightFormat, importance: F32 | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of the plain and of the searching quantizer, by row."""
    columns = weights.shape[-1]
    plain = decode(weight_format, encode(weights, weight_format), columns)
    parts = SEARCHES[weight_format](weights, importance)
    check_parts(weight_format, parts, weights.shape)
    found = decode(weight_format, parts, columns)
    return weighted_error(weights, plain, importance), weighted_error(weights, found, importance)


def matrices() -> dict[str, F32]:
    rng = np.random.default_rng(1)
    normal = rng.standard_normal((24, 100), dtype=np.float32)
    outliers = normal.copy()
    outliers[:, ::17] *= 30
    return {
        "normal": normal,
        "heavy tails": rng.standard_t(3, (24, 100)).astype(np.float32),
        "outliers": outliers,
        "positive": np.abs(normal),
        "tiny": normal * np.float32(1e-7),
        "huge": normal * np.float32(1e4),
        "zeros": np.zeros((3, 64), np.float32),
        "one": np.ones((1, 1), np.float32),
        "nothing": np.zeros((0, 32), np.float32),
    }


@pytest.mark.parametrize("weight_format", SEARCHES)
@pytest.mark.parametrize("name", matrices())
def test_the_result_is_never_worse_than_the_plain_one(
    name: str, weight_format: WeightFormat
) -> None:
    weights = matrices()[name]
    rng = np.random.default_rng(2)
    uneven = np.exp(2 * rng.standard_normal(weights.shape[1])).astype(np.float32)
    sparse = np.where(rng.random(weights.shape[1]) < 0.5, uneven, 0).astype(np.float32)
    for importance in (None, uneven, np.zeros_like(uneven)):
        plain, found = errors(weights, weight_format, importance)
        assert (found <= plain * (1 + ROUNDING)).all()
    # A column of importance 0 weighs a little inside, so that its weights are not thrown away.
    plain, found = errors(weights, weight_format, sparse)
    assert (found <= plain * 1.001 + 1e-30).all()


@pytest.mark.parametrize(
    ("weight_format", "share"),
    # Of the plain error's energy that must be gone on Gaussian weights; measured: 0.16, 0.14, 0.20,
    # 0.20, 0.06.
    [("w8g32", 0.12), ("w6g32", 0.1), ("w5m32", 0.16), ("w4m32", 0.16), ("fp4g32", 0.04)],
)
def test_searching_pays(weight_format: WeightFormat, share: float) -> None:
    weights = np.random.default_rng(3).standard_normal((64, 256), dtype=np.float32)
    plain, found = errors(weights, weight_format, None)
    assert found.sum() < (1 - share) * plain.sum()


@pytest.mark.parametrize("weight_format", SEARCHES)
def test_importance_moves_the_error_to_where_it_matters_less(weight_format: WeightFormat) -> None:
    rng = np.random.default_rng(4)
    weights = rng.standard_normal((64, 256), dtype=np.float32)
    importance = np.exp(2 * rng.standard_normal(256)).astype(np.float32)
    blind = decode(weight_format, SEARCHES[weight_format](weights, None), 256)
    _, guided = errors(weights, weight_format, importance)
    assert guided.sum() < weighted_error(weights, blind, importance).sum()


@pytest.mark.parametrize("weight_format", SEARCHES)
def test_what_the_format_holds_exactly_is_found(weight_format: WeightFormat) -> None:
    """Values of the format stay what they are: a packed model may be quantized again."""
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((16, 96), dtype=np.float32)
    values = decode(weight_format, encode(weights, weight_format), 96)
    again = decode(weight_format, SEARCHES[weight_format](values, None), 96)
    np.testing.assert_allclose(again, values, rtol=0, atol=3e-3)


@pytest.mark.parametrize("weight_format", SEARCHES)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_rows_that_the_format_cannot_hold_are_encoded_plainly(
    weight_format: WeightFormat, value: float
) -> None:
    """1e30 overflows every float16 scale; fp4g32 holds it."""
    weights = np.random.default_rng(6).standard_normal((5, 64), dtype=np.float32)
    clean = decode(weight_format, SEARCHES[weight_format](weights, None), 64)
    weights[2, 40] = value
    found = decode(weight_format, SEARCHES[weight_format](weights, None), 64)
    assert np.isnan(found[2, 32:]).all() or (value, weight_format) == (1e30, "fp4g32")
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(found[others], clean[others])


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(7).standard_normal((20, 64), dtype=np.float32)
    whole = SEARCHES["w4m32"](weights, None)
    monkeypatch.setattr(search, "BLOCK_WEIGHTS", 3 * 64)
    for a, b in zip(whole, SEARCHES["w4m32"](weights, None), strict=True):
        np.testing.assert_array_equal(a, b)
