"""norm_mlp and moe: against the reference, and bit-identical in any batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.ops.cases import EPS, F64, FORMATS, assert_close, draw, mlp_tolerance, rows_of
from tribody import _native
from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.reference import ReferenceMatrix, mlp, normalize
from tribody.ops.table import F32, I32, Matrix

NATIVE, REFERENCE = native.OPS, reference.OPS
Pair = tuple[ReferenceMatrix, ReferenceMatrix]
SIZES = [(64, 96), (576, 64), (33, 17), (40, 40), (1, 1)]  # (H, I)

# Formats of gate_up and down that differ: A8 to A8 of other codes, A8 to floats, floats to A8.
MIXED: list[tuple[WeightFormat, WeightFormat]] = [
    ("w4m32", "w6g32"),
    ("w6g32", "w8g32"),
    ("w5m32", "fp8b"),
    ("fp8b", "w4m32"),
    ("fp4g32", "float32"),
    ("float16", "w5m32"),
]
SAME: list[tuple[WeightFormat, WeightFormat]] = [(f, f) for f in FORMATS]


def weight(rng: np.random.Generator, shape: tuple[int, ...]) -> F32:
    """Scaled as trained weights are, so that every stage has values of about one."""
    result: F32 = draw(rng, shape) / np.float32(np.sqrt(shape[-1]))
    return result


def encode(values: F32, weight_format: WeightFormat) -> ReferenceMatrix:
    matrix = REFERENCE.pack(values, weight_format)
    assert isinstance(matrix, ReferenceMatrix)
    return matrix


def product(x: F32, weights: Matrix, residual: F32 | None = None) -> F32:
    out = np.empty((len(x), weights.shape[0]), np.float32)
    NATIVE.linear(x, weights, None, residual, out)
    return out


def hidden_of(x: F32, gate_up: Matrix) -> F32:
    """silu(g) * u with the kernels' exponential: the same bits as inside norm_mlp and moe."""
    gate, up = np.split(product(x, gate_up), 2, axis=-1)
    exponential = np.empty(gate.size, np.float32)
    _native.exponential(-gate.ravel(), exponential)
    result: F32 = gate / (np.float32(1) + exponential.reshape(gate.shape)) * up
    return result


@pytest.mark.parametrize("formats", SAME + MIXED, ids="-".join)
@pytest.mark.parametrize("rows", [0, 1, 3, 9, 70])
@pytest.mark.parametrize("size", SIZES)
def test_mlp_against_its_parts_and_the_reference(
    isa: str, size: tuple[int, int], rows: int, formats: tuple[WeightFormat, WeightFormat]
) -> None:
    """Bit-identical to norm, linear, silu, linear; the reference continues from the same norm."""
    rng = np.random.default_rng(1)
    width, inner = size
    x = rows_of(draw(rng, (rows, width)), strided=True)
    norm = 1 + weight(rng, (width,))
    gate_up, down = weight(rng, (2 * inner, width)), weight(rng, (width, inner))
    packed = NATIVE.pack(gate_up, formats[0]), NATIVE.pack(down, formats[1])
    out = rows_of(x.copy(), strided=True)
    NATIVE.norm_mlp(out, norm, 1e-5, *packed)
    normalized = np.empty(x.shape, np.float32)
    NATIVE.rms_norm(x, norm, 1e-5, normalized)
    np.testing.assert_array_equal(out, product(hidden_of(normalized, packed[0]), packed[1], x))
    pair = encode(gate_up, formats[0]), encode(down, formats[1])
    expected = x + mlp(normalized, *pair)
    assert_close(out, expected, mlp_tolerance(normalized, pair) + np.spacing(np.abs(expected)))


def test_norm_mlp_of_the_reference(isa: str) -> None:
    """The whole operator, its norm included, in float32."""
    rng = np.random.default_rng(9)
    x, norm = draw(rng, (9, 64)), 1 + weight(rng, (64,))
    pair = encode(weight(rng, (192, 64)), "float32"), encode(weight(rng, (64, 96)), "float32")
    packed = NATIVE.pack(pair[0].values, "float32"), NATIVE.pack(pair[1].values, "float32")
    expected, out = x.copy(), x.copy()
    REFERENCE.norm_mlp(expected, norm, 1e-5, *pair)
    NATIVE.norm_mlp(out, norm, 1e-5, *packed)
    # The norms differ by about eps sqrt(K), which is what a product's rounding allows for, too.
    allowed = 2 * mlp_tolerance(normalize(x, norm, 1e-5), pair) + np.spacing(np.abs(expected))
    assert_close(out, expected, allowed)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("inner", [96, 40])
def test_mlp_rows_do_not_depend_on_their_batch(
    isa: str, inner: int, weight_format: WeightFormat
) -> None:
    rng = np.random.default_rng(2)
    x, norm = draw(rng, (130, 64)), draw(rng, (64,))
    gate_up = NATIVE.pack(weight(rng, (2 * inner, 64)), weight_format)
    down = NATIVE.pack(weight(rng, (64, inner)), weight_format)
    together = x.copy()
    NATIVE.norm_mlp(together, norm, 1e-5, gate_up, down)
    for first, count in [(0, 1), (129, 1), (7, 2), (1, 3), (60, 8), (64, 9), (3, 66)]:
        part = x[first : first + count].copy()
        NATIVE.norm_mlp(part, norm, 1e-5, gate_up, down)
        np.testing.assert_array_equal(part, together[first : first + count])


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("rows", [5, 27])
def test_levels_agree_to_the_bit(rows: int, weight_format: WeightFormat) -> None:
    rng = np.random.default_rng(3)
    x, norm = draw(rng, (rows, 64)), draw(rng, (64,))
    gate_up = NATIVE.pack(weight(rng, (192, 64)), weight_format)
    down = NATIVE.pack(weight(rng, (64, 96)), weight_format)
    before, results = _native.current_isa(), []
    for level in _native.isa_levels():
        _native.set_isa(level)
        results.append(x.copy())
        NATIVE.norm_mlp(results[-1], norm, 1e-5, gate_up, down)
    _native.set_isa(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


Formats = tuple[WeightFormat, WeightFormat, WeightFormat, WeightFormat]
# Of routed gate_up and down, shared gate_up and down.

W8: Formats = ("w8g32", "w8g32", "w8g32", "w8g32")
MOE_FORMATS: list[Formats] = [
    *((f, f, f, f) for f in FORMATS),
    ("w8g32", "w8g32", "float32", "float32"),
    ("w4m32", "w6g32", "w8g32", "w8g32"),
    ("w4m32", "fp8b", "fp8b", "w5m32"),
    ("fp4g32", "fp4g32", "bfloat16", "w8g32"),
    ("fp8b", "w4m32", "w4m32", "float16"),
]


@dataclass(frozen=True)
class Experts:
    """A random mixture: matrices as float32, and who goes where."""

    x: F32
    chosen: I32
    weights: F32
    routed: tuple[F32, F32]
    shared: tuple[F32, F32]

    def packed(self, formats: Formats) -> tuple[tuple[Matrix, Matrix], tuple[Matrix, Matrix]]:
        matrices = (*self.routed, *self.shared)
        a, b, c, d = (NATIVE.pack(m, f) for m, f in zip(matrices, formats, strict=True))
        return (a, b), (c, d)


def draw_experts(rows: int, inner: int, num_experts: int = 7, top_k: int = 3) -> Experts:
    rng = np.random.default_rng(4)
    width = 48
    order = np.argsort(rng.random((rows, num_experts)), axis=-1)
    return Experts(
        x=draw(rng, (rows, width)),
        chosen=order[:, :top_k].astype(np.int32),
        weights=rng.random((rows, top_k), dtype=np.float32),
        routed=(
            weight(rng, (num_experts, 2 * inner, width)),
            weight(rng, (num_experts, width, inner)),
        ),
        shared=(weight(rng, (2 * 2 * inner, width)), weight(rng, (width, 2 * inner))),
    )


def moe_tolerance(case: Experts, routed: Pair, shared: Pair) -> F64:
    """The experts' tolerances, weighted and added as the experts are."""
    total = mlp_tolerance(case.x, shared)
    for expert in range(len(routed[0].values)):
        share = np.where(case.chosen == expert, case.weights, 0).sum(axis=-1, keepdims=True)
        total = total + share * mlp_tolerance(case.x, routed, expert)
    return total


def moe_of_parts(case: Experts, formats: Formats) -> tuple[F64, F64]:
    """What moe adds to out, from linear and silu alone, and the sum of magnitudes."""
    gate_ups, downs = (
        [NATIVE.pack(w, f) for w in m] for m, f in zip(case.routed, formats[:2], strict=True)
    )
    outputs = [
        product(hidden_of(case.x, gate_up), down)
        for gate_up, down in zip(gate_ups, downs, strict=True)
    ]
    first, second = (NATIVE.pack(m, f) for m, f in zip(case.shared, formats[2:], strict=True))
    total = product(hidden_of(case.x, first), second).astype(np.float64)
    magnitude = np.abs(total)
    for k in range(case.chosen.shape[1]):
        own = np.stack([outputs[e][t] for t, e in enumerate(case.chosen[:, k])])
        total += own * case.weights[:, k : k + 1].astype(np.float64)
        magnitude += np.abs(own) * case.weights[:, k : k + 1]
    return total, magnitude


@pytest.mark.parametrize("formats", MOE_FORMATS, ids="-".join)
@pytest.mark.parametrize("inner", [32, 20])
@pytest.mark.parametrize("rows", [1, 3, 9, 40])
def test_moe_against_its_parts_and_the_reference(
    isa: str, rows: int, inner: int, formats: Formats
) -> None:
    case = draw_experts(rows, inner)
    start = draw(np.random.default_rng(5), case.x.shape)
    expected, out = start.copy(), rows_of(start.copy(), strided=True)
    NATIVE.moe(case.x, case.chosen, case.weights, *case.packed(formats), out)
    total, magnitude = moe_of_parts(case, formats)
    assert_close(out, start + total, EPS * (5 * magnitude + np.abs(start)))  # five additions
    routed = encode(case.routed[0], formats[0]), encode(case.routed[1], formats[1])
    shared = encode(case.shared[0], formats[2]), encode(case.shared[1], formats[3])
    REFERENCE.moe(case.x, case.chosen, case.weights, routed, shared, expected)
    assert_close(out, expected, moe_tolerance(case, routed, shared) + EPS * (10 + np.abs(expected)))


def test_moe_of_no_rows(isa: str) -> None:
    case = draw_experts(0, 32)
    out = np.empty((0, 48), np.float32)
    NATIVE.moe(case.x, case.chosen, case.weights, *case.packed(W8), out)


def test_moe_without_shared_expert_and_with_one_expert_for_all(isa: str) -> None:
    """Every row goes to expert 2: a segment longer than a row chunk, and many empty ones."""
    case = draw_experts(70, 32)
    chosen = np.full((70, 1), 2, np.int32)
    ones = np.ones((70, 1), np.float32)
    out = np.zeros_like(case.x)
    routed, _ = case.packed(W8)
    NATIVE.moe(case.x, chosen, ones, routed, None, out)
    gate_up, down = (NATIVE.pack(m[2], "w8g32") for m in case.routed)
    np.testing.assert_array_equal(out, product(hidden_of(case.x, gate_up), down))


@pytest.mark.parametrize("weight_format", FORMATS)
def test_moe_rows_do_not_depend_on_their_batch(isa: str, weight_format: WeightFormat) -> None:
    case = draw_experts(40, 32)
    routed, shared = case.packed((weight_format,) * 4)
    together = np.zeros_like(case.x)
    NATIVE.moe(case.x, case.chosen, case.weights, routed, shared, together)
    for first, count in [(0, 1), (39, 1), (7, 2), (3, 9)]:
        rows = slice(first, first + count)
        part = np.zeros((count, case.x.shape[1]), np.float32)
        NATIVE.moe(case.x[rows], case.chosen[rows], case.weights[rows], routed, shared, part)
        np.testing.assert_array_equal(part, together[rows])


@pytest.mark.parametrize("expert", [-1, 7])
def test_experts_out_of_range_are_refused(expert: int) -> None:
    case = draw_experts(2, 32)
    case.chosen[1, 1] = expert
    routed, shared = case.packed(W8)
    with pytest.raises(ShapeError, match=str(expert)):
        NATIVE.moe(case.x, case.chosen, case.weights, routed, shared, np.zeros_like(case.x))


def test_matrices_that_do_not_fit_are_refused() -> None:
    x, norm = np.ones((2, 32), np.float32), np.ones(32, np.float32)
    gate_up = NATIVE.pack(np.ones((128, 32), np.float32), "w8g32")
    down = NATIVE.pack(np.ones((32, 65), np.float32), "w8g32")
    with pytest.raises(ShapeError, match="gate_up rows"):
        NATIVE.norm_mlp(x, norm, 1e-5, gate_up, down)
