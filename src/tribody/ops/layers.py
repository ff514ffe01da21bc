"""Whole decoder layers as one operator: the records of their weights, and what runs them.

A step of a small model is hundreds of operators of a few microseconds each, and the interpreter
takes as long from one to the next.  So a machine may offer to run any range of layers in one call
(`FusesLayers`).  None must: `ops.composed` runs the same layers by the operators of the table,
which is also what they mean; a machine's own form gives the same bits as its own small operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tribody.ops.table import F32, I32, I64, AttentionBatch, Matrix, Pages, RouterSpec


@dataclass(frozen=True, slots=True)
class StepRows:
    """What all layers of one step share.

    cos_sin: two of (T, D / 2), see `Ops.rope_store`.  slots (T,) int64 = page * 64 + offset.
    The first `num_generated` sequences of `batch` hold generated tokens, which latent attention
    takes in its absorbed form; the others are prompts.
    """

    cos_sin: tuple[F32, F32]
    slots: I64
    batch: AttentionBatch
    num_generated: int

    def split(self) -> tuple[AttentionBatch, AttentionBatch]:
        """The generated sequences' part of the batch and the prompts', each counted from row 0."""
        batch, cut = self.batch, self.num_generated
        generated = AttentionBatch(
            batch.row_starts[: cut + 1], batch.starts[:cut], batch.page_tables[:cut]
        )
        row_starts = batch.row_starts[cut:] - batch.row_starts[cut]
        return generated, AttentionBatch(row_starts, batch.starts[cut:], batch.page_tables[cut:])


class LayerStack(Protocol):
    """All layers of one model (or drafter), ready to run."""

    def run(self, layers: range, x: F32, step: StepRows, pages: tuple[Pages, ...]) -> None:
        """The layers of this range, one after the other, on x (T, H) in place.

        pages: arrays (L, P, ...) of all L layers; the step's keys and values are written there.
        """
        ...


@dataclass(frozen=True, slots=True)
class DenseMLP:
    """gate_up_proj (2 I, H): the gate's rows, then up's; down_proj (H, I)."""

    gate_up_proj: Matrix
    down_proj: Matrix


@dataclass(frozen=True, slots=True)
class SparseMLP:
    """Router (always float32), routed experts stacked (E, ...), shared experts as one MLP."""

    gate: Matrix
    e_score_correction_bias: F32 | None
    experts: tuple[Matrix, Matrix]
    shared_experts: tuple[Matrix, Matrix] | None


@dataclass(frozen=True, slots=True)
class GroupedQueryLayer:
    """One layer of grouped-query attention and an MLP; names as in checkpoints, joined where
    matrices are.  qk_norm: the weights of the heads' norms, of q and of k."""

    input_layernorm: F32
    qkv_proj: Matrix
    qkv_bias: F32 | None
    qk_norm: tuple[F32, F32] | None
    o_proj: Matrix
    o_bias: F32 | None
    post_attention_layernorm: F32
    mlp: DenseMLP


@dataclass(frozen=True, slots=True)
class GroupedQuerySpec:
    """The numbers that all layers share.  eps is that of every norm, scale the softmax's."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    scale: float


@dataclass(frozen=True, slots=True)
class LatentLayer:
    """One layer of latent attention and an MLP or a mixture of experts.

    `a_proj` joins what reads the hidden state: [q_a_proj or q_proj; kv_a_proj_with_mqa]; q_b is
    (q_a_layernorm, q_b_proj) in the first case.  `w_uk` (H, R, Dn) and `w_uv` (H, Dv, R) are
    kv_b_proj cut by head for the absorbed form: the values that the packed kv_b_proj stands for, so
    that both forms use the same weights.
    """

    input_layernorm: F32
    a_proj: Matrix
    q_b: tuple[F32, Matrix] | None
    kv_a_layernorm: F32
    kv_b_proj: Matrix
    w_uk: Matrix
    w_uv: Matrix
    o_proj: Matrix
    post_attention_layernorm: F32
    mlp: DenseMLP | SparseMLP


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """The numbers that all layers share: see `Ops.mla_store` and `Ops.route`.

    q_lora_rank 0 = a_proj gives the queries themselves.  router: None where no layer has experts.
    """

    hidden_size: int
    num_heads: int
    nope: int
    rope: int
    rank: int
    value_dim: int
    q_lora_rank: int
    rope_interleave: bool
    eps: float
    scale: float
    router: RouterSpec | None


@dataclass(frozen=True, slots=True)
class DraftModule:
    """DeepSeek-V3's multi-token-prediction module: one decoder layer between a projection of
    [the next token's embedding; a hidden state] and the model's head."""

    enorm: F32
    hnorm: F32
    eh_proj: Matrix  # (H, 2 H)
    layer: LatentLayer
    norm: F32  # shared_head.norm
    embed_tokens: Matrix
    lm_head: Matrix


@dataclass(frozen=True, slots=True)
class DraftRows:
    """What a drafter's passes share: the first pass's rows, and how to go on from them.

    token_ids (T,): the token that follows each row's position.  heads (R,) rising: the rows whose
    next tokens are guessed, their sequences' last if there is more than one pass.  angles: cos and
    sin, (N, D / 2), of positions [0, N), as many as the page tables hold.
    """

    token_ids: I32
    step: StepRows
    heads: I64
    angles: tuple[F32, F32]


class DraftStack(Protocol):
    """A drafter ready to run."""

    def run(self, hidden: F32, rows: DraftRows, pages: Pages, tokens: I32) -> F32:
        """Fill tokens (passes, R) with each pass's likeliest tokens.

        hidden (T, H): the states that the first pass's rows join with their tokens; each later
        pass joins the last one's guesses and states, as one row more of each sequence, and -1
        stands where a sequence's page table holds no page for that.  Writes to pages (1, P, ...).
        Returns the last states of the heads (R, H), normalised, a new array.
        """
        ...


@runtime_checkable
class FusesLayers(Protocol):
    """What a table of operators has besides, if its machine runs whole layers in one call."""

    def grouped_query_layers(
        self, layers: Sequence[GroupedQueryLayer], spec: GroupedQuerySpec
    ) -> LayerStack:
        """Raises: ShapeError when a weight does not fit the numbers."""
        ...

    def latent_layers(self, layers: Sequence[LatentLayer], spec: LatentSpec) -> LayerStack:
        """Raises: ShapeError when a weight does not fit the numbers."""
        ...

    def latent_drafter(self, module: DraftModule, spec: LatentSpec) -> DraftStack:
        """Raises: ShapeError when a weight does not fit the numbers."""
        ...
