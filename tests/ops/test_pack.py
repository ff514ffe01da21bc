"""pack and embed: the native module holds exactly the numbers that the reference holds."""

from __future__ import annotations

import gc
import mmap
from pathlib import Path

import numpy as np
import pytest

from tests.ops.cases import FORMATS, draw
from tribody import _native
from tribody.core.config import WeightFormat
from tribody.core.errors import BadModel, ShapeError
from tribody.ops import native, reference
from tribody.ops.table import F32, U8, Ops
from tribody.precision import codes, layout
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


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 17, 33)])
def test_bytes_are_those_of_the_layout(
    isa: str, shape: tuple[int, ...], weight_format: WeightFormat
) -> None:
    """The plain quantizers and the layout in NumPy: every bit, that of the padding included."""
    rng = np.random.default_rng(2)
    for weights in (draw(rng, shape), draw(rng, shape, "outliers") * np.float32(1e-3)):
        expected = layout.to_bytes(weight_format, codes.encode(weights, weight_format), shape)
        np.testing.assert_array_equal(native.OPS.pack(weights, weight_format).buffer, expected)


@pytest.mark.parametrize("weight_format", ["bfloat16", "float16"])
def test_rounding_of_every_pattern(isa: str, weight_format: WeightFormat) -> None:
    """All 65,536 upper halves of float32, with lower halves around the ties."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper | lower).view(np.float32).reshape(-1, 64)
        with np.errstate(over="ignore"):
            assert_same_values(values, weight_format)


@pytest.mark.parametrize("weight_format", [f for f in FORMATS if "float" not in f])
def test_rounding_of_scales(isa: str, weight_format: WeightFormat) -> None:
    """Groups whose scales round to zero, are subnormal, normal, and overflow."""
    rng = np.random.default_rng(2)
    magnitudes = np.float32(2.0) ** np.arange(-149, 127, dtype=np.float32)
    values = draw(rng, (len(magnitudes), 64)) * magnitudes[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        assert_same_values(values, weight_format)


@pytest.mark.parametrize(
    ("weight_format", "largest"),
    # The weight that makes a group's scale 1, so that halves tie, and quarters of small E2M1 codes.
    [("w8g32", 127), ("w6g32", 31), ("w5m32", 31 * 255 / 256), ("fp4g32", 6), ("fp8b", 448)],
)
def test_ties_round_to_even(isa: str, weight_format: WeightFormat, largest: float) -> None:
    values = (np.arange(-510, 510, dtype=np.float32) / 4).reshape(-1, 30)
    values = np.where(np.abs(values) <= largest, values, 0).astype(np.float32)
    anchored = np.concatenate([values, np.full((len(values), 2), largest, np.float32)], axis=1)
    assert_same_values(anchored, weight_format)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_sizes_are_as_declared(weight_format: WeightFormat) -> None:
    for shape in [*SHAPES, (3, 17, 33), (2, 8, 64)]:
        matrix = native.OPS.pack(np.zeros(shape, np.float32), weight_format)
        assert matrix.shape == shape
        assert matrix.format == weight_format
        assert matrix.num_bytes == matrix_bytes(shape, weight_format)


@pytest.mark.parametrize("weight_format", [f for f in FORMATS if "float" not in f])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_not_finite_weights_do_not_crash(
    isa: str, weight_format: WeightFormat, value: float
) -> None:
    """A group with NaN or Inf has no codes; its scale is not finite, so products show it.

    Units of w5m32 and w4m32 are the row's, and so is the NaN.  3e38 overflows float16 scales only.
    """
    values = np.ones((3, 256), np.float32)
    values[0, 3], values[1, 200] = value, value
    with np.errstate(over="ignore", invalid="ignore"):
        assert_same_values(values, weight_format)
    out = decoded(values, weight_format)
    assert np.isfinite(out[2]).all()
    if value != 3e38 or weight_format not in ("fp4g32", "fp8b"):
        assert not np.isfinite(out[0, :32]).any()
        assert not np.isfinite(out[1, 192:224]).any()
    if weight_format not in ("w5m32", "w4m32"):
        assert np.isfinite(out[0, 128:]).all()
        assert np.isfinite(out[1, :128]).all()


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


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", [(17, 33), (8, 256), (2, 9, 70), (0, 32), (5, 0)])
def test_codes_go_in_and_come_out(shape: tuple[int, ...], weight_format: WeightFormat) -> None:
    """Codes that the plain quantizer would not choose: random ones, from end to end."""
    rng = np.random.default_rng(3)
    parts = codes.encode(draw(rng, shape), weight_format)
    if "float" not in weight_format:
        low, high = int(parts[0].min(initial=0)), int(parts[0].max(initial=0))
        random = rng.integers(low, high + 1, parts[0].shape)
        if weight_format == "fp8b":
            random[random & 0x7F == 0x7F] = 0
        parts = (random.astype(parts[0].dtype), *parts[1:])
    expected = codes.decode(weight_format, parts, shape[-1])
    for ops in (native.OPS, reference.OPS):
        matrix = ops.pack_codes(weight_format, parts, shape)
        assert (matrix.shape, matrix.format) == (shape, weight_format)
        for part, again in zip(parts, ops.unpack(matrix), strict=True):
            np.testing.assert_array_equal(again, part)
            assert not np.shares_memory(again, part)
    if len(shape) == 2:
        out = np.empty(shape, np.float32)
        table = native.OPS.pack_codes(weight_format, parts, shape)
        native.OPS.embed(table, np.arange(shape[0], dtype=np.int32), out)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("ops", [native.OPS, reference.OPS])
def test_codes_that_do_not_fit_are_refused(ops: Ops) -> None:
    weights = np.ones((8, 64), np.float32)
    parts = codes.encode(weights, "fp4g32")
    with pytest.raises(ShapeError):
        ops.pack_codes("fp4g32", parts, (8, 96))
    with pytest.raises(ShapeError):
        ops.pack_codes("w4m32", parts, (8, 64))
    parts[1][3, 1] = 255
    with pytest.raises(BadModel, match="255"):
        ops.pack_codes("fp4g32", parts, (8, 64))
    fp8 = codes.encode(weights, "fp8b")
    fp8[0][2, 2] = 0xFF
    with pytest.raises(BadModel, match="NaN"):
        ops.pack_codes("fp8b", fp8, (8, 64))


def aligned(size: int) -> U8:
    memory = np.zeros(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size]


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", [(17, 33), (2, 9, 70)])
def test_a_matrix_over_bytes_is_the_matrix(
    tmp_path: Path, shape: tuple[int, ...], weight_format: WeightFormat
) -> None:
    """Mapped from a file: nothing is copied, and the map cannot be closed under the matrix."""
    packed = native.OPS.pack(draw(np.random.default_rng(4), shape), weight_format)
    path = tmp_path / "matrix"
    path.write_bytes(packed.buffer.tobytes())
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    matrix = native.OPS.from_bytes(weight_format, shape, np.frombuffer(mapped, np.uint8))
    assert (matrix.shape, matrix.format) == (shape, weight_format)
    assert matrix.num_bytes == packed.num_bytes
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    assert matrix.buffer.ctypes.data == address
    np.testing.assert_array_equal(matrix.buffer, packed.buffer)
    gc.collect()
    with pytest.raises(BufferError):
        mapped.close()
    if len(shape) == 2:
        ids, out, expected = np.arange(17, dtype=np.int32), *np.empty((2, *shape), np.float32)
        native.OPS.embed(matrix, ids, out)
        native.OPS.embed(packed, ids, expected)
        np.testing.assert_array_equal(out, expected)
    plain = reference.OPS.from_bytes(weight_format, shape, matrix.buffer)
    for part, again in zip(native.OPS.unpack(packed), reference.OPS.unpack(plain), strict=True):
        np.testing.assert_array_equal(again, part)
    np.testing.assert_array_equal(plain.buffer, packed.buffer)
    del matrix
    gc.collect()
    mapped.close()


def test_the_bytes_of_a_matrix_live_as_long_as_they_are_held() -> None:
    matrix = native.OPS.pack(np.ones((8, 32), np.float32), "w8g32")
    expected, held = matrix.buffer.tobytes(), matrix.buffer
    del matrix
    gc.collect()
    assert held.tobytes() == expected
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 1


@pytest.mark.parametrize("ops", [native.OPS, reference.OPS])
def test_bytes_that_do_not_fit_are_refused(ops: Ops) -> None:
    size = matrix_bytes((8, 64), "w4m32")
    memory = aligned(2 * size + 64)
    ops.from_bytes("w4m32", (8, 64), memory[:size])
    for buffer in (memory[: size + 1], memory[1 : size + 1], memory[: 2 * size : 2]):
        with pytest.raises(ShapeError):
            ops.from_bytes("w4m32", (8, 64), buffer)
    for shape in [(64,), (1, 1, 8, 64), (-8, 64), (9, 64)]:
        with pytest.raises(ShapeError):
            ops.from_bytes("w4m32", shape, memory[:size])


def test_a_matrix_over_bytes_is_not_written_to() -> None:
    memory = aligned(matrix_bytes((2, 8, 32), "w8g32"))
    stack = _native.matrix_over("w8g32", (2, 8, 32), memory)
    with pytest.raises(ShapeError, match="read-only"):
        _native.pack_into(stack, 0, np.ones((8, 32), np.float32))
