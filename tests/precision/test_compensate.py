"""Error feedback: valid codes, smaller products' errors, and nothing where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from tribody.core.config import WeightFormat
from tribody.precision.codes import check_parts, decode
from tribody.precision.compensate import compensate, damped, product_error
from tribody.precision.grid import GRIDS
from tribody.precision.search import SEARCHES

FORMATS = tuple(GRIDS)


def case(rows: int, columns: int, seed: int = 1):
    """Weights, and the second moments of inputs that go together."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_t(5, (rows, columns)).astype(np.float32) * np.float32(0.03)
    mixing = rng.normal(size=(columns // 3, columns)) * np.exp(rng.normal(size=columns))
    inputs = rng.normal(size=(4 * columns, columns // 3)) @ mixing
    inputs += 0.3 * rng.normal(size=inputs.shape)
    return weights, (inputs.T @ inputs / len(inputs)).astype(np.float32)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", [(16, 96), (3, 40), (1, 33), (40, 192)])
def test_products_change_less(weight_format: WeightFormat, shape: tuple[int, int]) -> None:
    weights, moments = case(*shape)
    parts = SEARCHES[weight_format](weights, np.ascontiguousarray(moments.diagonal()))
    found = compensate(weights, weight_format, parts, moments)
    check_parts(weight_format, found, shape)
    before, after = (
        product_error(weights, decode(weight_format, p, shape[1]), moments) for p in (parts, found)
    )
    assert (after <= before).all()
    assert after.sum() < 0.75 * before.sum()
    for new, old in zip(found[1:], parts[1:], strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_error_of_products_is_that_of_products() -> None:
    rng = np.random.default_rng(3)
    inputs, weights = rng.normal(size=(50, 8)), rng.normal(size=(4, 8))
    values = weights + 0.1 * rng.normal(size=weights.shape)
    moments = (inputs.T @ inputs / 50).astype(np.float32)
    expected = np.mean((inputs @ (weights - values).T) ** 2, axis=0)
    found = product_error(weights.astype(np.float32), values.astype(np.float32), moments)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_inputs_that_do_not_go_together_leave_rounding_to_nearest(
    weight_format: WeightFormat,
) -> None:
    weights, _ = case(8, 64)
    parts = SEARCHES[weight_format](weights, None)
    found = compensate(weights, weight_format, parts, np.eye(64, dtype=np.float32))
    before, after = (np.abs(weights - decode(weight_format, p, 64)) for p in (parts, found))
    assert (after <= before + 1e-7).all()
    assert np.count_nonzero(found[0] != parts[0]) < 0.02 * weights.size


@pytest.mark.parametrize(("num_inputs", "share"), [(10, 0.5), (400, 0.16), (1_000_000, 0.01)])
def test_the_fewer_inputs_the_more_damping(num_inputs: int, share: float) -> None:
    _, moments = case(1, 64)
    found = damped(moments, num_inputs)
    np.testing.assert_allclose(
        found - moments, share * moments.diagonal().mean() * np.eye(64), rtol=1e-3, atol=1e-4
    )


def test_few_inputs_mislead_less_when_damped() -> None:
    """Codes by the moments of few inputs were worse, on others, than those of no compensation."""
    rng = np.random.default_rng(5)
    columns, few = 96, 128
    turned, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    mixing = np.arange(1, columns + 1)[:, None] ** -0.5 * turned
    inputs = (rng.normal(size=(8000, columns)) @ mixing).astype(np.float32)
    weights = rng.normal(size=(64, columns)).astype(np.float32)
    seen, others = (x.T @ x / len(x) for x in (inputs[:few], inputs[few:]))
    parts = SEARCHES["w4m32"](weights, np.ascontiguousarray(seen.diagonal()))
    nearly_none = seen + np.float32(0.01 * seen.diagonal().mean()) * np.eye(columns, dtype="f4")
    errors = [
        product_error(weights, decode("w4m32", p, columns), others).sum()
        for p in (
            compensate(weights, "w4m32", parts, nearly_none),
            compensate(weights, "w4m32", parts, damped(seen, few)),
        )
    ]
    assert errors[1] < 0.85 * errors[0]


def test_nothing_seen_changes_nothing() -> None:
    weights, _ = case(8, 64)
    parts = SEARCHES["w4m32"](weights, None)
    assert compensate(weights, "w4m32", parts, np.zeros((64, 64), np.float32)) is parts


def test_rows_of_zeros_stay_zeros() -> None:
    _, moments = case(8, 64)
    weights = np.zeros((8, 64), np.float32)
    for weight_format in FORMATS:
        parts = SEARCHES[weight_format](weights, None)
        found = compensate(weights, weight_format, parts, moments)
        assert not decode(weight_format, found, 64).any()


def test_blocks_of_rows_join(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, moments = case(21, 64)
    parts = SEARCHES["w4m32"](weights, None)
    whole = compensate(weights, "w4m32", parts, moments)
    monkeypatch.setattr("tribody.precision.compensate.BLOCK_ROWS", 8)
    for new, old in zip(compensate(weights, "w4m32", parts, moments), whole, strict=True):
        np.testing.assert_array_equal(new, old)
