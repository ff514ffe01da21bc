"""pack and embed: the native module holds exactly the numbers that the reference holds."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.cases import FORMATS, draw
from tribody import _native
from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.table import F32, Ops
from tribody.precision import quantize
from tribody.precision.formats import matrix_bytes

SHAPES = [(1, 1), (17, 33), (8, 32), (40, 576), (9, 100), (0, 32), (5, 0)]


def decoded(weights: F32, weight_format: WeightFormat) -> F32:
    matrix = native.OPS.pack(weights, weight_format)
    out = np.empty(weights.shape, np.float32)
    native.OPS.embed(matrix, np.arange(len(weights), dtype=np.int32), out)
    return out


def assert_same_values(weights: F32, weight_format: WeightFormat) -> None:
    expected = reference.OPS.pack(weights, weight_format)
    assert isinstance(expected, reference.ReferenceMatrix)
    np.testing.assert_array_equal(decoded(weights, weight_format), expected.values)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_the_reference(
    isa: str, shape: tuple[int, int], weight_format: WeightFormat
) -> None:
    rng = np.random.default_rng(1)
    assert_same_values(draw(rng, shape), weight_format)
    assert_same_values(draw(rng, shape, "outliers"), weight_format)


@pytest.mark.parametrize("weight_format", ["bfloat16", "float16"])
def test_rounding_of_every_pattern(isa: str, weight_format: WeightFormat) -> None:
    """All 65,536 upper halves of float32, with lower halves around the ties."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper | lower).view(np.float32).reshape(-1, 64)
        with np.errstate(over="ignore"):
            assert_same_values(values, weight_format)


def test_rounding_of_scales(isa: str) -> None:
    """w8g32 groups whose scales round to zero, are subnormal, normal, and overflow."""
    rng = np.random.default_rng(2)
    magnitudes = np.float32(2.0) ** np.arange(-40, 23, dtype=np.float32)
    values = draw(rng, (len(magnitudes), 64)) * magnitudes[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        assert_same_values(values, "w8g32")


def test_ties_round_to_even(isa: str) -> None:
    """With 127 in the group the scale is 1 and halves are exact ties."""
    values = (np.arange(-254, 256, dtype=np.float32) / 2).reshape(-1, 30)
    anchored = np.concatenate([values, np.full((len(values), 2), 127, np.float32)], axis=1)
    assert_same_values(anchored, "w8g32")


@pytest.mark.parametrize("weight_format", FORMATS)
def test_sizes_are_as_declared(weight_format: WeightFormat) -> None:
    for shape in [*SHAPES, (3, 17, 33), (2, 8, 64)]:
        matrix = native.OPS.pack(np.zeros(shape, np.float32), weight_format)
        assert matrix.shape == shape
        assert matrix.format == weight_format
        assert matrix.num_bytes == matrix_bytes(shape, weight_format)


def test_not_finite_weights_do_not_crash(isa: str) -> None:
    """A group with NaN or Inf has no bytes; its scale is not finite, so products show it."""
    values = np.ones((3, 64), np.float32)
    values[0, 3], values[1, 40] = np.nan, np.inf
    out = decoded(values, "w8g32")
    assert np.isnan(out[0, :32]).all()
    assert np.isnan(out[1, 32:]).all()
    assert np.isfinite(out[2]).all()
    codes, _ = quantize.quantize_w8g32(values[2:])
    np.testing.assert_array_equal(codes, 127)


@pytest.mark.parametrize("token_id", [-1, 8, 2**31 - 1])
def test_ids_outside_the_table_are_refused(token_id: int) -> None:
    table = native.OPS.pack(np.zeros((8, 32), np.float32), "w8g32")
    with pytest.raises(ShapeError, match=str(token_id)):
        native.OPS.embed(table, np.array([token_id], np.int32), np.zeros((1, 32), np.float32))


def test_read_only_weights_are_enough() -> None:
    weights = np.ones((8, 32), np.float32)
    weights.flags.writeable = False
    assert _native.pack(weights, "float32").num_bytes == 16 * 32 * 4


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_stack_packed_one_by_one_is_the_stack(isa: str, weight_format: WeightFormat) -> None:
    rng = np.random.default_rng(2)
    weights = draw(rng, (3, 20, 40))
    stack = native.OPS.pack_stack(iter(weights), (3, 20, 40), weight_format)
    whole = native.OPS.pack(weights, weight_format)
    assert (stack.shape, stack.num_bytes) == (whole.shape, whole.num_bytes)
    x, chosen = draw(rng, (5, 40)), np.array([[0], [2], [1], [1], [0]], np.int32)
    results = []
    for gate_up in (stack, whole):
        down = native.OPS.pack(np.ones((3, 40, 10), np.float32), weight_format)
        out = np.zeros((5, 40), np.float32)
        native.OPS.moe(x, chosen, np.ones((5, 1), np.float32), (gate_up, down), None, out)
        results.append(out)
    np.testing.assert_array_equal(results[0], results[1])
    expected = reference.OPS.pack_stack(iter(weights), (3, 20, 40), weight_format)
    assert isinstance(expected, reference.ReferenceMatrix)
    plain = reference.OPS.pack(weights, weight_format)
    assert isinstance(plain, reference.ReferenceMatrix)
    np.testing.assert_array_equal(expected.values, plain.values)


@pytest.mark.parametrize("ops", [native.OPS, reference.OPS])
def test_a_stack_of_the_wrong_size_is_refused(ops: Ops) -> None:
    weights = np.zeros((2, 8, 32), np.float32)
    for shape in [(3, 8, 32), (1, 8, 32), (2, 8, 33), (2, 9, 32)]:
        with pytest.raises(ShapeError):
            ops.pack_stack(iter(weights), shape, "w8g32")
