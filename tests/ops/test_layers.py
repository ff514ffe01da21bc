"""Whole layers in one call: the bits of their operators one by one, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.ops.cases import draw, rows_of
from tests.ops.paged_cases import Dtype, Layout, Sequence, lay_out
from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.composed import (
    ComposedGroupedQuery,
    ComposedLatent,
    grouped_query_layers,
    latent_layers,
)
from tribody.ops.layers import (
    DenseMLP,
    GroupedQueryLayer,
    GroupedQuerySpec,
    LatentLayer,
    LatentSpec,
    LayerStack,
    SparseMLP,
    StepRows,
)
from tribody.ops.table import F32, I64, Matrix, Ops, Pages, RouterSpec

NUM_LAYERS = 3
FORMATS: list[WeightFormat] = ["float32", "w8g32", "w4m32", "float16"]
ROUTER = RouterSpec(3, 4, 2, "sigmoid", "top2", normalize=True, scale=2.5)
LLAMA = GroupedQuerySpec(64, 6, 2, 16, 1e-5, 0.25)
LATENT = LatentSpec(48, 3, 24, 8, 40, 20, 36, True, 1e-6, 0.2, ROUTER)
STEPS = [
    [],
    [Sequence(199, 1)],
    [Sequence(0, 200)],
    [Sequence(10, 1), Sequence(300, 1), Sequence(64, 0), Sequence(127, 1)],
    [Sequence(0, 3), Sequence(128, 1), Sequence(5, 66), Sequence(63, 2)],
    [Sequence(i, 1) for i in range(70)],
]


class Maker:
    """Draws weights, scaled as trained ones are, and packs them."""

    def __init__(self, ops: Ops, weight_format: WeightFormat) -> None:
        self.ops, self.format = ops, weight_format
        self.rng = np.random.default_rng(1)

    def matrix(self, *shape: int, weight_format: WeightFormat | None = None) -> Matrix:
        values = draw(self.rng, shape) / np.float32(np.sqrt(shape[-1]))
        return self.ops.pack(values, weight_format or self.format)

    def vector(self, size: int) -> F32:
        return 1 + draw(self.rng, (size,)) / np.float32(8)

    def mlp(self, hidden: int, inner: int) -> DenseMLP:
        return DenseMLP(self.matrix(2 * inner, hidden), self.matrix(hidden, inner))

    def grouped_query(self, *, extras: bool) -> GroupedQueryLayer:
        spec = LLAMA
        q_width = spec.num_heads * spec.head_dim
        width = q_width + 2 * spec.num_kv_heads * spec.head_dim
        return GroupedQueryLayer(
            input_layernorm=self.vector(spec.hidden_size),
            qkv_proj=self.matrix(width, spec.hidden_size),
            qkv_bias=draw(self.rng, (width,)) if extras else None,
            qk_norm=(self.vector(16), self.vector(16)) if extras else None,
            o_proj=self.matrix(spec.hidden_size, q_width),
            o_bias=draw(self.rng, (spec.hidden_size,)) if extras else None,
            post_attention_layernorm=self.vector(spec.hidden_size),
            mlp=self.mlp(spec.hidden_size, 96),
        )

    def latent(self, spec: LatentSpec, *, sparse: bool) -> LatentLayer:
        hidden, heads = spec.hidden_size, spec.num_heads
        q_width = heads * (spec.nope + spec.rope)
        first = spec.q_lora_rank or q_width
        mlp: DenseMLP | SparseMLP = self.mlp(hidden, 64)
        if sparse:
            mlp = SparseMLP(
                gate=self.matrix(8, hidden, weight_format="float32"),
                e_score_correction_bias=draw(self.rng, (8,)),
                experts=(self.matrix(8, 64, hidden), self.matrix(8, hidden, 32)),
                shared_experts=(self.matrix(96, hidden), self.matrix(hidden, 48)),
            )
        q_b = (self.vector(first), self.matrix(q_width, first)) if spec.q_lora_rank else None
        return LatentLayer(
            input_layernorm=self.vector(hidden),
            a_proj=self.matrix(first + spec.rank + spec.rope, hidden),
            q_b=q_b,
            kv_a_layernorm=self.vector(spec.rank),
            kv_b_proj=self.matrix(heads * (spec.nope + spec.value_dim), spec.rank),
            w_uk=self.matrix(heads, spec.rank, spec.nope),
            w_uv=self.matrix(heads, spec.value_dim, spec.rank),
            o_proj=self.matrix(hidden, heads * spec.value_dim),
            post_attention_layernorm=self.vector(hidden),
            mlp=mlp,
        )

    def llamas(self) -> list[GroupedQueryLayer]:
        return [self.grouped_query(extras=i == 1) for i in range(NUM_LAYERS)]

    def latents(self, spec: LatentSpec) -> list[LatentLayer]:
        return [self.latent(spec, sparse=i > 0) for i in range(NUM_LAYERS)]


def step_of(layout: Layout, rotated: int, num_generated: int) -> StepRows:
    rng = np.random.default_rng(2)
    angles = rng.standard_normal((layout.rows, rotated // 2)).astype(np.float32)
    starts, ends = layout.batch.starts, np.diff(layout.batch.row_starts)
    own = [s[a : a + n] for s, a, n in zip(layout.slots, starts, ends, strict=True)]
    slots: I64 = np.concatenate([np.zeros(0, np.int64), *own])
    return StepRows((np.cos(angles), np.sin(angles)), slots, layout.batch, num_generated)


def pages_of(shapes: list[tuple[int, ...]], layout: Layout, dtype: Dtype) -> tuple[Pages, ...]:
    rng = np.random.default_rng(3)
    whole = [(NUM_LAYERS, layout.num_pages, *shape) for shape in shapes]
    pages: list[Any] = [rng.standard_normal(shape).astype(dtype) for shape in whole]
    return tuple(pages)


def results(
    stack: LayerStack, width: int, layout: Layout, step: StepRows, pages: tuple[Pages, ...]
) -> list[F32 | Pages]:
    """x and the pages after the layers, run as all, as one and as none."""
    x = rows_of(draw(np.random.default_rng(4), (layout.rows, width)), strided=True)
    own = tuple(p.copy() for p in pages)
    for layers in (range(NUM_LAYERS), range(1, 2), range(2, 2)):
        stack.run(layers, x, step, own)
    assert np.isfinite(x).all()
    return [x, *own]


def same(first: list[F32 | Pages], second: list[F32 | Pages]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("sequences", STEPS, ids=str)
def test_grouped_query_layers_are_their_parts(
    isa: str, sequences: list[Sequence], weight_format: WeightFormat, dtype: Dtype
) -> None:
    layers = Maker(native.OPS, weight_format).llamas()
    layout = lay_out(sequences, np.random.default_rng(5))
    pages = pages_of([(2, 16, 64), (2, 64, 16)], layout, dtype)
    step = step_of(layout, 16, 0)
    whole = grouped_query_layers(native.OPS, layers, LLAMA)
    parts = ComposedGroupedQuery(native.OPS, layers, LLAMA)
    same(results(whole, 64, layout, step, pages), results(parts, 64, layout, step, pages))


@pytest.mark.parametrize("q_lora_rank", [36, 0])
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("sequences", STEPS, ids=str)
def test_latent_layers_are_their_parts(
    isa: str, sequences: list[Sequence], weight_format: WeightFormat, q_lora_rank: int
) -> None:
    """All generated, all prompts, and a mixture."""
    spec = replace(LATENT, q_lora_rank=q_lora_rank)
    layers = Maker(native.OPS, weight_format).latents(spec)
    layout = lay_out(sequences, np.random.default_rng(6))
    pages = pages_of([(64, 48)], layout, np.float16)
    whole = latent_layers(native.OPS, layers, spec)
    parts = ComposedLatent(native.OPS, layers, spec)
    for num_generated in {0, len(sequences) // 2, len(sequences)}:
        step = step_of(layout, 8, num_generated)
        same(results(whole, 48, layout, step, pages), results(parts, 48, layout, step, pages))


def test_a_machine_without_whole_layers_runs_their_parts() -> None:
    layers = Maker(reference.OPS, "float32")
    assert isinstance(
        grouped_query_layers(reference.OPS, layers.llamas(), LLAMA), ComposedGroupedQuery
    )
    assert isinstance(latent_layers(reference.OPS, layers.latents(LATENT), LATENT), ComposedLatent)


Change = Callable[[GroupedQueryLayer], GroupedQueryLayer]
WRONG: list[tuple[str, Change]] = [
    ("input_layernorm", lambda layer: replace(layer, input_layernorm=np.ones(65, np.float32))),
    ("qkv_bias", lambda layer: replace(layer, qkv_bias=np.ones(3, np.float32))),
    ("qkv_proj rows", lambda layer: replace(layer, qkv_proj=layer.mlp.down_proj)),
    ("o_proj rows", lambda layer: replace(layer, o_proj=layer.qkv_proj)),
    ("gate_up", lambda layer: replace(layer, mlp=DenseMLP(layer.o_proj, layer.mlp.down_proj))),
]


@pytest.mark.parametrize(("name", "change"), WRONG, ids=[name for name, _ in WRONG])
def test_weights_that_do_not_fit_are_refused_by_name(name: str, change: Change) -> None:
    layers = Maker(native.OPS, "w8g32").llamas()
    layers[2] = change(layers[2])
    with pytest.raises(ShapeError, match=name):
        grouped_query_layers(native.OPS, layers, LLAMA)


def test_experts_without_a_router_are_refused() -> None:
    layers = Maker(native.OPS, "w8g32").latents(LATENT)
    with pytest.raises(ShapeError, match="route"):
        latent_layers(native.OPS, layers, replace(LATENT, router=None))


def test_steps_that_do_not_fit_are_refused() -> None:
    layout = lay_out([Sequence(3, 2)], np.random.default_rng(8))
    stack = grouped_query_layers(native.OPS, Maker(native.OPS, "w8g32").llamas(), LLAMA)
    pages, step = pages_of([(2, 16, 64), (2, 64, 16)], layout, np.float32), step_of(layout, 16, 0)
    x = np.ones((2, 64), np.float32)
    with pytest.raises(ShapeError, match=r"layers \[1, 4\)"):
        stack.run(range(1, 4), x, step, pages)
    with pytest.raises(ShapeError, match="x"):
        stack.run(range(3), x[:, :63], step, pages)
    with pytest.raises(ShapeError, match="layers of K pages"):
        stack.run(range(3), x, step, (pages[0][:2], pages[1][:2]))
    with pytest.raises(ShapeError, match="num_generated"):
        stack.run(range(3), x, replace(step, num_generated=2), pages)
    with pytest.raises(ShapeError, match="slot"):
        stack.run(range(3), x, replace(step, slots=step.slots + (1 << 20)), pages)
