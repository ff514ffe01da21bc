"""Coordinate descent: no row gets worse, all together gain, and codes stay valid."""

from __future__ import annotations

import numpy as np
import pytest

from tests.precision.test_compensate import case
from tribody.core.config import WeightFormat
from tribody.precision.codes import check_parts, decode, encode
from tribody.precision.compensate import compensate, damped, product_error
from tribody.precision.descend import descend
from tribody.precision.grid import GRIDS
from tribody.precision.search import SEARCHES

FORMATS = tuple(GRIDS)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", [(16, 96), (3, 40), (1, 33), (40, 192)])
def test_products_change_less(weight_format: WeightFormat, shape: tuple[int, int]) -> None:
    weights, moments = case(*shape)
    moments = damped(moments, 4 * shape[1])
    importance = np.ascontiguousarray(moments.diagonal())
    parts = compensate(
        weights, weight_format, SEARCHES[weight_format](weights, importance), moments
    )
    found = descend(weights, weight_format, parts, moments)
    check_parts(weight_format, found, shape)
    before, after = (
        product_error(weights, decode(weight_format, p, shape[1]), moments) for p in (parts, found)
    )
    assert (after <= before * (1 + 1e-4)).all()
    if shape[0] >= 16:
        assert after.sum() < 0.98 * before.sum()
    else:
        assert after.sum() <= before.sum()


@pytest.mark.parametrize("weight_format", FORMATS)
def test_plain_codes_are_mended_too(weight_format: WeightFormat) -> None:
    weights, moments = case(32, 96)
    moments = damped(moments, 400)
    parts = encode(weights, weight_format)
    found = descend(weights, weight_format, parts, moments)
    before, after = (
        product_error(weights, decode(weight_format, p, 96), moments).sum() for p in (parts, found)
    )
    assert after < 0.7 * before


def test_weights_of_the_grid_stay() -> None:
    weights, moments = case(16, 64)
    for weight_format in FORMATS:
        parts = encode(weights, weight_format)
        exact = decode(weight_format, parts, 64)
        found = descend(exact, weight_format, parts, damped(moments, 300))
        np.testing.assert_array_equal(decode(weight_format, found, 64), exact)


def test_what_cannot_be_weighed_stays() -> None:
    weights, moments = case(8, 64)
    parts = SEARCHES["w4m32"](weights, None)
    assert descend(weights, "w4m32", parts, np.zeros((64, 64), np.float32)) is parts
    weights[3, 5] = np.nan
    broken = encode(weights, "w4m32")
    assert descend(weights, "w4m32", broken, moments) is broken


def test_rows_of_zeros_stay_zeros() -> None:
    _, moments = case(8, 64)
    weights = np.zeros((8, 64), np.float32)
    for weight_format in FORMATS:
        found = descend(weights, weight_format, encode(weights, weight_format), damped(moments, 99))
        assert not decode(weight_format, found, 64).any()


def test_blocks_of_rows_join(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, moments = case(21, 64)
    parts = encode(weights, "w4m32")
    whole = descend(weights, "w4m32", parts, damped(moments, 300))
    monkeypatch.setattr("tribody.precision.descend.BLOCK_ROWS", 8)
    for new, old in zip(descend(weights, "w4m32", parts, damped(moments, 300)), whole, strict=True):
        np.testing.assert_array_equal(new, old)
