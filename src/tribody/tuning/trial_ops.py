"""Operators over weights that can be exchanged, and that watch what is multiplied by them.

`TrialOps` stands in front of the machine's own operators while a model is measured: what it packs
is a `TrialMatrix`, which keeps what was loaded beside what is computed with, so that one at a time
can be replaced by a rounded one, and which can sum up the inputs that it meets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tribody.core.config import WeightFormat
from tribody.ops.reference import silu
from tribody.ops.table import (
    F32,
    I32,
    I64,
    U8,
    AttentionBatch,
    Matrix,
    Ops,
    Pages,
    RouterSpec,
    Setting,
    Tunable,
)
from tribody.precision.codes import Parts, decode
from tribody.quality.statistics import F64

LARGEST_MOMENTS = 1 << 26
# Bytes of a matrix's second moments.  1,536 inputs take 9 MB, eight experts of 1,024 inputs 34 MB;
# a large layer's experts would take more than the model: of those only the squares are summed.

SMALLEST_SQUARE = np.float32(1e-12)  # of a row's mean square: rows of zeros count for no more


@dataclass(slots=True, eq=False)
class TrialMatrix:
    """(N, K) or (E, N, K).  `original`: as it was loaded; `matrix`: what is computed with now.

    `moments`: sum of the products of every two inputs, (K, K) or (E, K, K), or where that is too
    large of each input's squares, (K,) or (E, K); over `counts` rows, () or (E,).  Summed while the
    operators observe.  `factors`, (K,) or (E, K): what inputs have been divided by, and weights
    multiplied.
    """

    original: Matrix
    matrix: Matrix = field(init=False)
    moments: F32 = field(init=False)
    counts: F64 = field(init=False)
    factors: F32 = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = self.original
        *experts, _, columns = self.shape
        self.counts = np.zeros(experts)
        self.factors = np.ones((*experts, columns), np.float32)
        shape = (*experts, columns, columns)
        if 4 * math.prod(shape) > LARGEST_MOMENTS:
            shape = (*experts, columns)
        self.moments = np.zeros(shape, np.float32)  # untouched pages take no memory

    @property
    def shape(self) -> tuple[int, ...]:
        return self.original.shape

    @property
    def format(self) -> WeightFormat:
        return self.matrix.format

    @property
    def num_bytes(self) -> int:
        return self.matrix.num_bytes

    @property
    def buffer(self) -> U8:
        return self.matrix.buffer

    def observe(self, x: F32, expert: int | None = None) -> None:
        """Add rows x (T, K) that meet this matrix, or one expert of it."""
        is_full = self.moments.ndim - self.counts.ndim == 2
        sums = x.T @ x if is_full else np.einsum("tk,tk->k", x, x)
        if expert is None:
            self.moments += sums
            self.counts += len(x)
        else:
            self.moments[expert] += sums
            self.counts[expert] += len(x)

    def replace(self, original: Matrix, factors: F32 | None) -> None:
        """Other weights, for inputs divided by `factors`, (K,) or (E, K); None: the same inputs."""
        self.original = self.matrix = original
        if factors is None:
            return
        self.factors = self.factors * factors
        is_full = self.moments.ndim - self.counts.ndim == 2
        self.moments /= factors[..., None, :] if is_full else factors
        self.moments /= factors[..., None] if is_full else factors

    def mean_moments(self) -> F32 | None:
        """Mean of `moments`, of their shape; None when nothing was observed.

        An expert that met fewer rows than it has columns is filled up with the mean over all
        experts.
        """
        if not self.counts.sum():
            return None
        trailing = self.moments.shape[self.counts.ndim :]
        whole = self.moments.reshape(-1, *trailing).sum(0) / np.float32(self.counts.sum())
        lacking = np.maximum(self.shape[-1] - self.counts, 0).astype(np.float32)
        total = (self.counts + lacking).astype(np.float32)
        by_expert = (..., *[None] * len(trailing))
        filled: F32 = (self.moments + lacking[by_expert] * whole) / total[by_expert]
        return filled


def _own(matrix: Matrix) -> TrialMatrix:
    assert isinstance(matrix, TrialMatrix)
    return matrix


def _sway(stream: F32) -> F32:
    """What a change of each row of the residual stream counts for, (T, 1): the next norm divides by
    the row's size.  SmolLM2's first tokens have inputs a thousand times as strong as the others'
    (99.8 % of all squares in layer 11), and matter less than those."""
    squares = np.einsum("tk,tk->t", stream, stream) / np.float32(max(1, stream.shape[1]))
    sizes = np.sqrt(squares + SMALLEST_SQUARE, dtype=np.float32)
    sway: F32 = np.float32(1) / sizes[:, None]
    return sway


class TrialOps:
    """The table of operators over trial matrices; `observing`: they sum up what they meet.

    What is added to the residual stream is weighed by `_sway`, and an expert's inputs by its part
    in its token.
    """

    name = "trial"

    def __init__(self, inner: Ops) -> None:
        self.inner = inner
        self.observing = False
        self._latents = np.empty((0, 0), np.float32)  # of the rows that were stored last

    def tunables(self) -> tuple[Tunable, ...]:
        return self.inner.tunables()

    def tune(self, settings: Mapping[str, Setting]) -> None:
        self.inner.tune(settings)

    def pack(self, weights: F32, weight_format: WeightFormat) -> TrialMatrix:
        return TrialMatrix(self.inner.pack(weights, weight_format))

    def pack_stack(
        self, weights: Iterable[F32], shape: tuple[int, int, int], weight_format: WeightFormat
    ) -> TrialMatrix:
        return TrialMatrix(self.inner.pack_stack(weights, shape, weight_format))

    def pack_codes(
        self, weight_format: WeightFormat, parts: Parts, shape: tuple[int, ...]
    ) -> TrialMatrix:
        return TrialMatrix(self.inner.pack_codes(weight_format, parts, shape))

    def from_bytes(
        self, weight_format: WeightFormat, shape: tuple[int, ...], buffer: U8
    ) -> TrialMatrix:
        return TrialMatrix(self.inner.from_bytes(weight_format, shape, buffer))

    def unpack(self, matrix: Matrix) -> Parts:
        return self.inner.unpack(_own(matrix).matrix)

    def embed(self, table: Matrix, token_ids: I32, out: F32) -> None:
        self.inner.embed(_own(table).matrix, token_ids, out)

    def rms_norm(self, x: F32, weight: F32, eps: float, out: F32) -> None:
        self.inner.rms_norm(x, weight, eps, out)

    def linear(
        self, x: F32, weights: Matrix, bias: F32 | None, residual: F32 | None, out: F32
    ) -> None:
        self.inner.linear(x, _own(weights).matrix, bias, residual, out)
        if self.observing:
            _own(weights).observe(x if residual is None else x * _sway(out))

    def norm_linear(
        self, x: F32, norm: F32, eps: float, weights: Matrix, bias: F32 | None, out: F32
    ) -> None:
        if self.observing:
            _own(weights).observe(self._normalised(x, norm, eps))
        self.inner.norm_linear(x, norm, eps, _own(weights).matrix, bias, out)

    def norm_mlp(self, x: F32, norm: F32, eps: float, gate_up: Matrix, down: Matrix) -> None:
        given = self._normalised(x, norm, eps) if self.observing else x
        self.inner.norm_mlp(x, norm, eps, _own(gate_up).matrix, _own(down).matrix)
        if self.observing:
            self._observe_mlp(given, _own(gate_up), _own(down), _sway(x))

    def _normalised(self, x: F32, norm: F32, eps: float) -> F32:
        out = np.empty(x.shape, np.float32)
        self.inner.rms_norm(x, norm, eps, out)
        return out

    def values(self, matrix: TrialMatrix) -> F32:
        """A matrix's numbers as they were loaded, float32: a fresh array."""
        original = matrix.original
        return decode(original.format, self.inner.unpack(original), original.shape[-1])

    def _observe_mlp(self, x: F32, gate_up: TrialMatrix, down: TrialMatrix, sway: F32) -> None:
        both = np.empty((len(x), gate_up.shape[0]), np.float32)
        self.inner.linear(x, gate_up.original, None, None, both)
        gate, up = np.split(both, 2, axis=-1)
        gate_up.observe(x)
        down.observe(silu(gate) * up * sway)

    def _observe_experts(
        self,
        x: F32,
        experts: I32,
        weights: F32,
        pair: tuple[TrialMatrix, TrialMatrix],
        sway: F32,
    ) -> None:
        gate_up, down = pair
        values = self.values(gate_up)
        for expert in np.unique(experts).tolist():
            chosen = experts == expert
            met = chosen.any(axis=1)
            share = (weights * chosen).sum(axis=1, keepdims=True)[met]
            gate, up = np.split(x[met] @ values[expert].T, 2, axis=-1)
            gate_up.observe(x[met] * share, expert)
            down.observe(silu(gate) * up * share * sway[met], expert)

    def rope_store(
        self,
        qkv: F32,
        heads: tuple[int, int, int],
        cos_sin: tuple[F32, F32],
        qk_norm: tuple[F32, F32, float] | None,
        slots: I64,
        pages: tuple[Pages, Pages],
    ) -> None:
        self.inner.rope_store(qkv, heads, cos_sin, qk_norm, slots, pages)

    def attend(
        self,
        q: F32,
        heads: tuple[int, int, int],
        pages: tuple[Pages, Pages],
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        self.inner.attend(q, heads, pages, batch, scale, out)

    def mla_store(
        self,
        q: F32,
        head_dims: tuple[int, int, int],
        kv_a: F32,
        norm: F32,
        eps: float,
        cos_sin: tuple[F32, F32],
        interleaved: bool,
        slots: I64,
        pages: Pages,
    ) -> None:
        if self.observing:
            self._latents = self._normalised(np.ascontiguousarray(kv_a[:, : len(norm)]), norm, eps)
        self.inner.mla_store(q, head_dims, kv_a, norm, eps, cos_sin, interleaved, slots, pages)

    def mla_attend_absorbed(
        self,
        q: F32,
        head_dims: tuple[int, int, int],
        w_uk: Matrix,
        w_uv: Matrix,
        pages: Pages,
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        pair = _own(w_uk).matrix, _own(w_uv).matrix
        self.inner.mla_attend_absorbed(q, head_dims, *pair, pages, batch, scale, out)

    def mla_attend_expanded(
        self,
        q: F32,
        head_dims: tuple[int, int, int],
        kv_b: Matrix,
        pages: Pages,
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        if self.observing:
            _own(kv_b).observe(self._latents)
        matrix = _own(kv_b).matrix
        self.inner.mla_attend_expanded(q, head_dims, matrix, pages, batch, scale, out)

    def route(
        self, logits: F32, bias: F32 | None, spec: RouterSpec, experts: I32, weights: F32
    ) -> None:
        self.inner.route(logits, bias, spec, experts, weights)

    def moe(
        self,
        x: F32,
        experts: I32,
        weights: F32,
        routed: tuple[Matrix, Matrix],
        shared: tuple[Matrix, Matrix] | None,
        out: F32,
    ) -> None:
        pair = _own(routed[0]).matrix, _own(routed[1]).matrix
        both = None if shared is None else (_own(shared[0]).matrix, _own(shared[1]).matrix)
        self.inner.moe(x, experts, weights, pair, both, out)
        if self.observing:
            own, sway = (_own(routed[0]), _own(routed[1])), _sway(out)
            self._observe_experts(x, experts, weights, own, sway)
            if shared is not None:
                self._observe_mlp(x, _own(shared[0]), _own(shared[1]), sway)

    def argmax(self, logits: F32, out: I32) -> None:
        self.inner.argmax(logits, out)

    def top_logprobs(self, logits: F32, k: int) -> tuple[I32, F32, F32]:
        return self.inner.top_logprobs(logits, k)
