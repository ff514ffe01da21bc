"""Operators over weights that can be exchanged, and that watch what is multiplied by them.

`TrialOps` stands in front of the machine's own operators while a model is measured: what it packs
is a `TrialMatrix`, which keeps its values beside the packed matrix, so that one at a time can be
replaced by a rounded one, and which can sum up the inputs that it meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
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


@dataclass(slots=True, eq=False)
class TrialMatrix:
    """`values` (N, K) or (E, N, K); `matrix` is what is computed with now.

    `moments`: sum of squares of each input column, (K,) or (E, K), over `counts` rows, () or (E,);
    summed while the operators observe.
    """

    values: F32
    matrix: Matrix
    moments: F64 = field(init=False)
    counts: F64 = field(init=False)

    def __post_init__(self) -> None:
        *experts, _, columns = self.values.shape
        self.moments = np.zeros((*experts, columns))
        self.counts = np.zeros(experts)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

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
        sums = np.einsum("tk,tk->k", x, x, dtype=np.float64)
        if expert is None:
            self.moments += sums
            self.counts += len(x)
        else:
            self.moments[expert] += sums
            self.counts[expert] += len(x)

    def importance(self) -> F32:
        """Mean square of each input column, float32, of `moments`' shape.

        An expert that met fewer rows than it has columns is filled up with the mean over all
        experts; a matrix that met none has ones.
        """
        if not self.counts.sum():
            return np.ones(self.moments.shape, np.float32)
        whole = self.moments.reshape(-1, self.moments.shape[-1]).sum(0) / self.counts.sum()
        lacking = np.maximum(self.moments.shape[-1] - self.counts, 0)[..., None]
        filled = (self.moments + lacking * whole) / (self.counts[..., None] + lacking)
        return np.asarray(filled, np.float32)


def _own(matrix: Matrix) -> TrialMatrix:
    assert isinstance(matrix, TrialMatrix)
    return matrix


class TrialOps:
    """The table of operators over trial matrices; `observing`: they sum up what they meet."""

    name = "trial"

    def __init__(self, inner: Ops) -> None:
        self._inner = inner
        self.observing = False

    def tunables(self) -> tuple[Tunable, ...]:
        return self._inner.tunables()

    def tune(self, settings: Mapping[str, Setting]) -> None:
        self._inner.tune(settings)

    def pack(self, weights: F32, weight_format: WeightFormat) -> TrialMatrix:
        return TrialMatrix(np.array(weights), self._inner.pack(weights, weight_format))

    def pack_stack(
        self, weights: Iterable[F32], shape: tuple[int, int, int], weight_format: WeightFormat
    ) -> TrialMatrix:
        values = np.stack(list(weights))
        if values.shape != shape:
            raise ShapeError(f"pack_stack: the matrices make {values.shape}, not {shape}")
        return self.pack(values, weight_format)

    def pack_codes(
        self, weight_format: WeightFormat, parts: Parts, shape: tuple[int, ...]
    ) -> TrialMatrix:
        return self._over(self._inner.pack_codes(weight_format, parts, shape))

    def from_bytes(
        self, weight_format: WeightFormat, shape: tuple[int, ...], buffer: U8
    ) -> TrialMatrix:
        return self._over(self._inner.from_bytes(weight_format, shape, buffer))

    def _over(self, packed: Matrix) -> TrialMatrix:
        values = decode(packed.format, self._inner.unpack(packed), packed.shape[-1])
        return TrialMatrix(values, packed)

    def unpack(self, matrix: Matrix) -> Parts:
        return self._inner.unpack(_own(matrix).matrix)

    def embed(self, table: Matrix, token_ids: I32, out: F32) -> None:
        self._inner.embed(_own(table).matrix, token_ids, out)

    def rms_norm(self, x: F32, weight: F32, eps: float, out: F32) -> None:
        self._inner.rms_norm(x, weight, eps, out)

    def linear(
        self, x: F32, weights: Matrix, bias: F32 | None, residual: F32 | None, out: F32
    ) -> None:
        if self.observing:
            _own(weights).observe(x)
        self._inner.linear(x, _own(weights).matrix, bias, residual, out)

    def norm_linear(
        self, x: F32, norm: F32, eps: float, weights: Matrix, bias: F32 | None, out: F32
    ) -> None:
        if self.observing:
            _own(weights).observe(self._normalised(x, norm, eps))
        self._inner.norm_linear(x, norm, eps, _own(weights).matrix, bias, out)

    def norm_mlp(self, x: F32, norm: F32, eps: float, gate_up: Matrix, down: Matrix) -> None:
        if self.observing:
            self._observe_mlp(self._normalised(x, norm, eps), _own(gate_up), _own(down), None)
        self._inner.norm_mlp(x, norm, eps, _own(gate_up).matrix, _own(down).matrix)

    def _normalised(self, x: F32, norm: F32, eps: float) -> F32:
        out = np.empty(x.shape, np.float32)
        self._inner.rms_norm(x, norm, eps, out)
        return out

    @staticmethod
    def _observe_mlp(x: F32, gate_up: TrialMatrix, down: TrialMatrix, expert: int | None) -> None:
        weights = gate_up.values if expert is None else gate_up.values[expert]
        gate, up = np.split(x @ weights.T, 2, axis=-1)
        gate_up.observe(x, expert)
        down.observe(silu(gate) * up, expert)

    def rope_store(
        self,
        qkv: F32,
        heads: tuple[int, int, int],
        cos_sin: tuple[F32, F32],
        qk_norm: tuple[F32, F32, float] | None,
        slots: I64,
        pages: tuple[Pages, Pages],
    ) -> None:
        self._inner.rope_store(qkv, heads, cos_sin, qk_norm, slots, pages)

    def attend(
        self,
        q: F32,
        heads: tuple[int, int, int],
        pages: tuple[Pages, Pages],
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        self._inner.attend(q, heads, pages, batch, scale, out)

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
        self._inner.mla_store(q, head_dims, kv_a, norm, eps, cos_sin, interleaved, slots, pages)

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
        self._inner.mla_attend_absorbed(q, head_dims, *pair, pages, batch, scale, out)

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
        matrix = _own(kv_b).matrix
        self._inner.mla_attend_expanded(q, head_dims, matrix, pages, batch, scale, out)

    def route(
        self, logits: F32, bias: F32 | None, spec: RouterSpec, experts: I32, weights: F32
    ) -> None:
        self._inner.route(logits, bias, spec, experts, weights)

    def moe(
        self,
        x: F32,
        experts: I32,
        weights: F32,
        routed: tuple[Matrix, Matrix],
        shared: tuple[Matrix, Matrix] | None,
        out: F32,
    ) -> None:
        if self.observing:
            for expert in np.unique(experts):
                rows = x[(experts == expert).any(axis=1)]
                self._observe_mlp(rows, _own(routed[0]), _own(routed[1]), int(expert))
            if shared is not None:
                self._observe_mlp(x, _own(shared[0]), _own(shared[1]), None)
        pair = _own(routed[0]).matrix, _own(routed[1]).matrix
        both = None if shared is None else (_own(shared[0]).matrix, _own(shared[1]).matrix)
        self._inner.moe(x, experts, weights, pair, both, out)

    def argmax(self, logits: F32, out: I32) -> None:
        self._inner.argmax(logits, out)

    def top_logprobs(self, logits: F32, k: int) -> tuple[I32, F32, F32]:
        return self._inner.top_logprobs(logits, k)
