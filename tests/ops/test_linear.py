"""linear and norm_linear: against the reference, and bit-identical in any batch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.cases import (
    A8_FORMATS,
    FORMATS,
    PRODUCTS,
    Product,
    assert_close,
    draw,
    rows_of,
    tolerance,
)
from tribody import _native
from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.table import F32, Matrix

NATIVE, REFERENCE = native.OPS, reference.OPS


def product(x: F32, weights: Matrix, bias: F32 | None = None, residual: F32 | None = None) -> F32:
    out = np.full((len(x), weights.shape[0]), np.nan, np.float32)
    NATIVE.linear(x, weights, bias, residual, out)
    return out


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_against_the_reference(isa: str, case: Product, weight_format: WeightFormat) -> None:
    rng = np.random.default_rng(3)
    x = rows_of(draw(rng, (case.rows, case.columns), case.content), strided=case.strided)
    weights = draw(rng, (case.outputs, case.columns), case.content)
    bias = draw(rng, (case.outputs,)) if case.bias else None
    residual = draw(rng, (case.rows, case.outputs)) if case.residual else None
    out = rows_of(np.zeros((case.rows, case.outputs), np.float32), strided=case.strided)
    expected = np.empty((case.rows, case.outputs), np.float32)
    encoded = REFERENCE.pack(weights, weight_format)
    assert isinstance(encoded, reference.ReferenceMatrix)
    REFERENCE.linear(x, encoded, bias, residual, expected)
    NATIVE.linear(x, NATIVE.pack(weights, weight_format), bias, residual, out)
    # bias and residual each round once more, at the size of the result.
    allowed = tolerance(x, encoded) + 4 * np.finfo(np.float32).eps * (np.abs(expected) + 1)
    assert_close(out, expected, allowed)
    if case.strided and case.rows:
        assert out.base is not None
        assert np.isnan(out.base).sum() == out.base.size - out.size  # nothing beside the rows


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("columns", [576, 33])
def test_rows_do_not_depend_on_their_batch(
    isa: str, weight_format: WeightFormat, columns: int
) -> None:
    rng = np.random.default_rng(5)
    x = draw(rng, (130, columns), "outliers")
    weights = NATIVE.pack(draw(rng, (72, columns)), weight_format)
    norm = draw(rng, (columns,))
    together = product(x, weights)
    normed = np.empty_like(together)
    NATIVE.norm_linear(x, norm, 1e-5, weights, None, normed)
    for first, count in [(0, 1), (5, 1), (129, 1), (7, 2), (1, 3), (60, 8), (64, 9), (3, 66)]:
        part = x[first : first + count]
        np.testing.assert_array_equal(product(part, weights), together[first : first + count])
        out = np.empty((count, 72), np.float32)
        NATIVE.norm_linear(part, norm, 1e-5, weights, None, out)
        np.testing.assert_array_equal(out, normed[first : first + count])


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("rows", [1, 8, 11, 25, 70])
def test_instruction_sets_agree_to_the_bit(rows: int, weight_format: WeightFormat) -> None:
    rng = np.random.default_rng(6)
    x, weights = draw(rng, (rows, 161)), draw(rng, (50, 161))
    before, results = _native.current_isa(), []
    for level in _native.isa_levels():
        _native.set_isa(level)
        results.append(product(x, NATIVE.pack(weights, weight_format)))
    _native.set_isa(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("weight_format", FORMATS)
def test_matrices_outlive_a_change_of_instruction_set(weight_format: WeightFormat) -> None:
    """The packed layout is one for all levels."""
    rng = np.random.default_rng(7)
    x, before, results = draw(rng, (3, 96)), _native.current_isa(), []
    weights = NATIVE.pack(draw(rng, (20, 96)), weight_format)
    for level in _native.isa_levels():
        _native.set_isa(level)
        results.append(product(x, weights))
    _native.set_isa(before)
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_norm_linear_is_norm_then_linear(isa: str, weight_format: WeightFormat) -> None:
    rng = np.random.default_rng(8)
    for rows, columns in [(0, 64), (1, 576), (9, 33), (20, 100)]:
        x, norm, bias = draw(rng, (rows, columns)), draw(rng, (columns,)), draw(rng, (24,))
        weights = NATIVE.pack(draw(rng, (24, columns)), weight_format)
        normalized, out = np.empty_like(x), np.empty((rows, 24), np.float32)
        NATIVE.rms_norm(x, norm, 1e-5, normalized)
        NATIVE.norm_linear(x, norm, 1e-5, weights, bias, out)
        np.testing.assert_array_equal(out, product(normalized, weights, bias))


def test_out_may_be_residual(isa: str) -> None:
    rng = np.random.default_rng(9)
    x, residual = draw(rng, (9, 64)), draw(rng, (9, 20))
    weights = NATIVE.pack(draw(rng, (20, 64)), "w8g32")
    expected = product(x, weights, residual=residual)
    NATIVE.linear(x, weights, None, residual, residual)
    np.testing.assert_array_equal(residual, expected)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(
    isa: str, weight_format: WeightFormat, value: float
) -> None:
    rng = np.random.default_rng(10)
    x = draw(rng, (9, 100))
    weights = NATIVE.pack(draw(rng, (24, 100)), weight_format)
    clean = product(x, weights)
    x[4, 70] = value
    out = product(x, weights)
    assert not np.isfinite(out[4]).any()
    others = np.arange(9) != 4
    np.testing.assert_array_equal(out[others], clean[others])


@pytest.mark.parametrize("weight_format", A8_FORMATS)
@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-36, 1e-30, 1e30, 3e38])
def test_activations_of_any_magnitude(
    isa: str, magnitude: float, weight_format: WeightFormat
) -> None:
    """The A8 scale of tiny and huge groups: zeros or the reference's codes, never garbage."""
    x = np.linspace(-1, 1, 64, dtype=np.float32)[None] * np.float32(magnitude)
    weights = np.full((8, 64), 1 / 64, np.float32)
    expected = np.empty((1, 8), np.float32)
    encoded = REFERENCE.pack(weights, weight_format)
    assert isinstance(encoded, reference.ReferenceMatrix)
    REFERENCE.linear(x, encoded, None, None, expected)
    assert_close(product(x, NATIVE.pack(weights, weight_format)), expected, tolerance(x, encoded))


@pytest.mark.parametrize("problem", ["columns", "rows", "bias", "dtype", "axes", "order"])
def test_arrays_that_do_not_fit_are_refused(problem: str) -> None:
    weights = NATIVE.pack(np.ones((8, 32), np.float32), "w8g32")
    x: F32 = np.ones((2, 32), np.float32)
    out: F32 = np.ones((2, 8), np.float32)
    bias: F32 | None = None
    if problem == "columns":
        x = np.ones((2, 33), np.float32)
    elif problem == "rows":
        out = np.ones((3, 8), np.float32)
    elif problem == "bias":
        bias = np.ones(9, np.float32)
    elif problem == "dtype":
        x = np.ones((2, 32), np.float64)
    elif problem == "axes":
        x = np.ones(32, np.float32)
    else:
        x = np.ones((32, 2), np.float32).T
    with pytest.raises(ShapeError):
        NATIVE.linear(x, weights, bias, None, out)


def test_read_only_output_is_refused() -> None:
    weights = NATIVE.pack(np.ones((8, 32), np.float32), "w8g32")
    out = np.ones((2, 8), np.float32)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        NATIVE.linear(np.ones((2, 32), np.float32), weights, None, None, out)
