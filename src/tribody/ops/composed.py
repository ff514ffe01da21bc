"""Whole layers by the operators of the table: what `ops.layers` means, on any machine.

`grouped_query_layers`, `latent_layers` and `latent_drafter` take the machine's own form where it
has one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tribody.core.config import PAGE_SIZE
from tribody.ops.layers import (
    DenseMLP,
    DraftModule,
    DraftRows,
    DraftStack,
    FusesLayers,
    GroupedQueryLayer,
    GroupedQuerySpec,
    LatentLayer,
    LatentSpec,
    LayerStack,
    SparseMLP,
    StepRows,
)
from tribody.ops.scratch import Scratch
from tribody.ops.table import F32, I32, I64, AttentionBatch, Ops, Pages


def grouped_query_layers(
    ops: Ops, layers: Sequence[GroupedQueryLayer], spec: GroupedQuerySpec
) -> LayerStack:
    """Layers ready to run on this machine."""
    if isinstance(ops, FusesLayers):
        return ops.grouped_query_layers(layers, spec)
    return ComposedGroupedQuery(ops, layers, spec)


def latent_layers(ops: Ops, layers: Sequence[LatentLayer], spec: LatentSpec) -> LayerStack:
    """Layers ready to run on this machine."""
    if isinstance(ops, FusesLayers):
        return ops.latent_layers(layers, spec)
    return ComposedLatent(ops, layers, spec)


def latent_drafter(ops: Ops, module: DraftModule, spec: LatentSpec) -> DraftStack:
    """A drafter ready to run on this machine."""
    if isinstance(ops, FusesLayers):
        return ops.latent_drafter(module, spec)
    return ComposedDrafter(ops, module, spec)


class ComposedGroupedQuery:
    """Llama, Qwen2 and Qwen3: five operators a layer."""

    def __init__(
        self, ops: Ops, layers: Sequence[GroupedQueryLayer], spec: GroupedQuerySpec
    ) -> None:
        self._ops, self._layers, self._spec = ops, layers, spec
        self._scratch = Scratch()

    def run(self, layers: range, x: F32, step: StepRows, pages: tuple[Pages, ...]) -> None:
        """See `LayerStack.run`; pages = keys (L, P, Hkv, D, 64), values (L, P, Hkv, 64, D)."""
        ops, spec, (keys, values) = self._ops, self._spec, pages
        heads, eps = (spec.num_heads, spec.num_kv_heads, spec.head_dim), spec.eps
        qkv_width = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
        qkv = self._scratch.rows("qkv", len(x), qkv_width)
        mixed = self._scratch.rows("mixed", len(x), spec.num_heads * spec.head_dim)
        for index in layers:
            layer, own = self._layers[index], (keys[index], values[index])
            qk_norm = None if layer.qk_norm is None else (*layer.qk_norm, eps)
            ops.norm_linear(x, layer.input_layernorm, eps, layer.qkv_proj, layer.qkv_bias, qkv)
            ops.rope_store(qkv, heads, step.cos_sin, qk_norm, step.slots, own)
            ops.attend(qkv, heads, own, step.batch, spec.scale, mixed)
            ops.linear(mixed, layer.o_proj, layer.o_bias, x, x)
            norm, mlp = layer.post_attention_layernorm, layer.mlp
            ops.norm_mlp(x, norm, eps, mlp.gate_up_proj, mlp.down_proj)


class ComposedLatent:
    """DeepSeek-V2 and V3: latent attention, then an MLP or a mixture of experts.

    Generated tokens attend in the absorbed form (over latents), prompts in the expanded form (keys
    and values rebuilt per head); both read the same latent pages.
    """

    def __init__(self, ops: Ops, layers: Sequence[LatentLayer], spec: LatentSpec) -> None:
        self._ops, self._layers, self._spec = ops, layers, spec
        self._scratch = Scratch()

    def run(self, layers: range, x: F32, step: StepRows, pages: tuple[Pages, ...]) -> None:
        """See `LayerStack.run`; pages = latents (L, P, 64, R + Dr) alone."""
        ops, eps, (latents,) = self._ops, self._spec.eps, pages
        for index in layers:
            layer = self._layers[index]
            mixed = self._attend(layer, x, step, latents[index])
            ops.linear(mixed, layer.o_proj, None, x, x)
            norm, mlp = layer.post_attention_layernorm, layer.mlp
            if isinstance(mlp, DenseMLP):
                ops.norm_mlp(x, norm, eps, mlp.gate_up_proj, mlp.down_proj)
            else:
                self._add_experts(mlp, norm, x)

    def _attend(self, layer: LatentLayer, x: F32, step: StepRows, pages: Pages) -> F32:
        """Attention of the normalised x (T, H Dv); writes the step's latents to `pages`."""
        ops, spec, scratch, eps = self._ops, self._spec, self._scratch, self._spec.eps
        head_dims, scale = (spec.num_heads, spec.nope, spec.rope), spec.scale
        q_width = spec.num_heads * (spec.nope + spec.rope)
        first_width = spec.q_lora_rank or q_width
        joined = scratch.rows("joined", len(x), first_width + spec.rank + spec.rope)
        ops.norm_linear(x, layer.input_layernorm, eps, layer.a_proj, None, joined)
        q, kv_a = joined[:, :first_width], joined[:, first_width:]
        if layer.q_b is not None:
            q_a, q = q, scratch.rows("q", len(x), q_width)
            ops.norm_linear(q_a, layer.q_b[0], eps, layer.q_b[1], None, q)
        ops.mla_store(
            q,
            head_dims,
            kv_a,
            layer.kv_a_layernorm,
            eps,
            step.cos_sin,
            spec.rope_interleave,
            step.slots,
            pages,
        )
        mixed = scratch.rows("mixed", len(x), spec.num_heads * spec.value_dim)
        generated, prompts = step.split()
        cut = int(step.batch.row_starts[step.num_generated])
        if cut:
            up, rows = (layer.w_uk, layer.w_uv), slice(0, cut)
            ops.mla_attend_absorbed(q[rows], head_dims, *up, pages, generated, scale, mixed[rows])
        if cut < len(x):
            rows = slice(cut, len(x))
            ops.mla_attend_expanded(
                q[rows], head_dims, layer.kv_b_proj, pages, prompts, scale, mixed[rows]
            )
        return mixed

    def _add_experts(self, mlp: SparseMLP, norm: F32, x: F32) -> None:
        """x += routed experts + shared expert, of the normalised x."""
        ops, router, scratch = self._ops, self._spec.router, self._scratch
        assert router is not None
        hidden = scratch.rows("hidden", *x.shape)
        scores = scratch.rows("scores", len(x), mlp.gate.shape[0])
        chosen = np.empty((len(x), router.top_k), np.int32)
        shares = scratch.rows("shares", len(x), router.top_k)
        ops.rms_norm(x, norm, self._spec.eps, hidden)
        ops.linear(hidden, mlp.gate, None, None, scores)
        ops.route(scores, mlp.e_score_correction_bias, router, chosen, shares)
        ops.moe(hidden, chosen, shares, mlp.experts, mlp.shared_experts, x)


class ComposedDrafter:
    """DeepSeek-V3's module: see `ops.layers.DraftStack`."""

    def __init__(self, ops: Ops, module: DraftModule, spec: LatentSpec) -> None:
        self._ops, self._module, self._spec = ops, module, spec
        self._layer = ComposedLatent(ops, [module.layer], spec)
        self._scratch = Scratch()

    def run(self, hidden: F32, rows: DraftRows, pages: Pages, tokens: I32) -> F32:
        """See `DraftStack.run`."""
        batch, heads = rows.step.batch, rows.heads
        x = self._compute(rows.token_ids, hidden, rows.step, pages)
        states = np.empty((len(heads), self._spec.hidden_size), np.float32)
        kept = np.arange(len(heads))
        tokens[:] = -1
        self._say(x[heads], kept, states, tokens[0])
        own_batch = np.searchsorted(batch.row_starts, heads, side="right") - 1
        tables = batch.page_tables[own_batch]
        ends = batch.starts[own_batch] + heads - batch.row_starts[own_batch] + 1
        cos, sin = rows.angles
        for index in range(1, len(tokens)):
            positions = ends + (index - 1)
            page = self._pages_at(tables, positions)
            kept = kept[page[kept] >= 0]
            slots = page[kept] * PAGE_SIZE + positions[kept] % PAGE_SIZE
            own = AttentionBatch(
                np.arange(len(kept) + 1, dtype=np.int32),
                positions[kept].astype(np.int32),
                tables[kept],
            )
            angles = cos[positions[kept]], sin[positions[kept]]
            step = StepRows(angles, slots, own, len(kept))
            x = self._compute(tokens[index - 1][kept], states[kept], step, pages)
            self._say(x, kept, states, tokens[index])
        return states

    @staticmethod
    def _pages_at(tables: I32, positions: I64) -> I64:
        """The page that holds each table's position; -1: none."""
        places, width = positions // PAGE_SIZE, tables.shape[1]
        found = tables[np.arange(len(tables)), np.minimum(places, width - 1)]
        return np.where(places < width, found, -1).astype(np.int64)

    def _compute(self, token_ids: I32, states: F32, step: StepRows, pages: Pages) -> F32:
        """The module's rows: these tokens joined with these states, through the layer."""
        ops, module, eps = self._ops, self._module, self._spec.eps
        count, size = states.shape
        joined = self._scratch.rows("drafter joined", count, 2 * size)
        embedded, seen = joined[:, :size], joined[:, size:]
        ops.embed(module.embed_tokens, token_ids, embedded)
        ops.rms_norm(embedded, module.enorm, eps, embedded)
        ops.rms_norm(states, module.hnorm, eps, seen)
        x = self._scratch.rows("drafter x", count, size)
        ops.linear(joined, module.eh_proj, None, None, x)
        self._layer.run(range(1), x, step, (pages,))
        return x

    def _say(self, x: F32, kept: I64, states: F32, tokens: I32) -> None:
        """The kept heads' normalised states and likeliest tokens."""
        ops, vocab_size = self._ops, self._module.lm_head.shape[0]
        normed = np.empty_like(x)
        logits = self._scratch.rows("drafter logits", len(x), vocab_size)
        best = np.empty(len(x), np.int32)
        ops.rms_norm(x, self._module.norm, self._spec.eps, normed)
        ops.linear(normed, self._module.lm_head, None, None, logits)
        ops.argmax(logits, best)
        states[kept], tokens[kept] = normed, best
