"""`Ops`: the adaptation contract, a frozen table of the functions that a machine must offer.

Adapting tribody to a chip is writing one file that fills this table.  `ops.reference` is the
specification in plain NumPy; one table of cases (tests/ops) holds every other backend to it.

Conventions.  Activations are float32, C-contiguous in the last axis (rows may be strided).  T is
the number of rows (tokens) in the step.  Functions write into `out` or into the argument that
their docstring names, and return nothing unless they say so.  Weights are opaque `Matrix` values
made by `pack`.  Every output element is accumulated in one fixed order that does not depend on T
or on the neighbours in the batch, so a token's result is bit-identical in any batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.precision.codes import Parts

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Pages = NDArray[np.float32] | NDArray[np.float16]


class Matrix(Protocol):
    """A packed weight: (N, K), or E of them stacked as (E, N, K).  y = x @ W.T."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def format(self) -> WeightFormat: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def buffer(self) -> U8:
        """The packed bytes (precision.layout): a read-only view that keeps the matrix alive."""
        ...


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Which rows belong to which sequence, and where each sequence's pages are.

    row_starts (B + 1,) int32: sequence b owns rows [row_starts[b], row_starts[b + 1]).
    starts (B,) int32: the position of each sequence's first row.  A row at position p attends to
    positions [0, p].
    page_tables (B, N) int32: page of positions [64 i, 64 i + 64), -1 = none.
    """

    row_starts: I32
    starts: I32
    page_tables: I32


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """How a MoE router chooses experts.  Source: DeepSeek-V2 and V3 papers, section 2.1.2."""

    top_k: int
    num_groups: int = 1
    top_groups: int = 1
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    group_score: Literal["max", "top2"] = "max"  # "top2": sum of the two best (V3)
    normalize: bool = False  # divide the chosen weights by their sum (+ 1e-20)
    scale: float = 1.0


Phase = Literal["decode", "prefill"]
Setting = int | str


@dataclass(frozen=True, slots=True)
class Tunable:
    """Something that is chosen by measurement (`tribody tune`) and no matter of results.

    `values`: those worth a try, the default among them.  `phases`: what it may speed up.
    `tolerance`: by how much a log-probability may differ from the default's; 0 = the same bits.
    """

    name: str
    default: Setting
    values: tuple[Setting, ...]
    meaning: str
    phases: tuple[Phase, ...] = ("decode", "prefill")
    tolerance: float = 0.0


def check_settings(tunables: Iterable[Tunable], settings: Mapping[str, Setting]) -> None:
    """Raises: ValueError on a name that is no tunable's or a value that is not one of its own."""
    values = {tunable.name: tunable.values for tunable in tunables}
    for name, value in settings.items():
        if name not in values:
            raise ValueError(f"no tunable is named {name!r}")
        if value not in values[name]:
            raise ValueError(f"{name} cannot be {value!r}; it has {values[name]}")


class Ops(Protocol):
    """The table.  Implementations are modules' frozen instances: `reference.OPS`, `native.OPS`."""

    @property
    def name(self) -> str: ...

    def tunables(self) -> tuple[Tunable, ...]:
        """What of this machine's kernels may be tuned, the most promising first."""
        ...

    def tune(self, settings: Mapping[str, Setting]) -> None:
        """Put these values of `tunables` in force, and the defaults of those not named.

        Holds for the whole process; not to be called while an operator runs.
        Raises: ValueError on an unknown name or a value that is not one of its `values`.
        """
        ...

    def pack(self, weights: F32, weight_format: WeightFormat) -> Matrix:
        """Encode float32 weights (N, K) or (E, N, K) for this machine."""
        ...

    def pack_stack(
        self, weights: Iterable[F32], shape: tuple[int, int, int], weight_format: WeightFormat
    ) -> Matrix:
        """Encode E matrices (N, K), taken one at a time, as one stack of shape (E, N, K).

        Only one of them need be in memory as float32: a layer of DeepSeek-V3's experts is 30 GB.
        """
        ...

    def pack_codes(
        self, weight_format: WeightFormat, parts: Parts, shape: tuple[int, ...]
    ) -> Matrix:
        """A matrix (N, K), or a stack (E, N, K), of codes that are chosen already, bit for bit.

        For checkpoints that come in codes, and for quantizers that search (precision.search).
        Parts are those of the format in `precision.codes`.
        Raises: ShapeError for parts that do not fit; BadModel for codes that the format refuses.
        """
        ...

    def unpack(self, matrix: Matrix) -> Parts:
        """The codes of a matrix: fresh arrays, what `pack_codes` would take."""
        ...

    def from_bytes(self, weight_format: WeightFormat, shape: tuple[int, ...], buffer: U8) -> Matrix:
        """A matrix over bytes that are packed already, such as a part of a mapped file.

        Nothing is copied: the matrix keeps `buffer`, whose bytes must not change.
        Raises: ShapeError unless `buffer` is one-dimensional, contiguous, of exactly `matrix_bytes`
        and aligned to 64 bytes.
        """
        ...

    def embed(self, table: Matrix, token_ids: I32, out: F32) -> None:
        """out (T, K) = rows of the table (V, K), decoded to float32."""
        ...

    def rms_norm(self, x: F32, weight: F32, eps: float, out: F32) -> None:
        """out (T, K) = x / sqrt(mean(x^2) + eps) * weight.  `out` may be `x`."""
        ...

    def linear(
        self, x: F32, weights: Matrix, bias: F32 | None, residual: F32 | None, out: F32
    ) -> None:
        """out (T, N) = x (T, K) @ weights.T + bias + residual.  `out` may be `residual`."""
        ...

    def norm_linear(
        self, x: F32, norm: F32, eps: float, weights: Matrix, bias: F32 | None, out: F32
    ) -> None:
        """out (T, N) = rms_norm(x, norm, eps) @ weights.T + bias."""
        ...

    def norm_mlp(self, x: F32, norm: F32, eps: float, gate_up: Matrix, down: Matrix) -> None:
        """x (T, H) += (silu(g) * u) @ down.T, with [g | u] = rms_norm(x) @ gate_up.T; in place.

        gate_up (2 I, H) holds the gate's I rows, then the up projection's; down is (H, I).
        """
        ...

    def rope_store(
        self,
        qkv: F32,
        heads: tuple[int, int, int],
        cos_sin: tuple[F32, F32],
        qk_norm: tuple[F32, F32, float] | None,
        slots: I64,
        pages: tuple[Pages, Pages],
    ) -> None:
        """Rotate q in place, rotate k and write k and v to their pages.

        qkv (T, (Hq + 2 Hkv) D), heads = (Hq, Hkv, D).  cos, sin (T, D / 2), half-split pairs
        (x[i], x[i + D / 2]).  qk_norm = (q weight, k weight, eps): RMSNorm of each head (D) before
        the rotation (Qwen3).  slots (T,) = page * 64 + offset.  K pages (P, Hkv, D, 64): positions
        innermost; V pages (P, Hkv, 64, D).  Mutates q's part of qkv and the pages.
        """
        ...

    def attend(
        self,
        q: F32,
        heads: tuple[int, int, int],
        pages: tuple[Pages, Pages],
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        """Causal grouped-query attention over pages: out (T, Hq D).

        q is the first Hq D columns of its rows (a view of qkv is fine).  For each row and head
        pages are visited in order with an online softmax, one update per page of 64 positions.
        """
        ...

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
        """Rotate q's rope part in place; normalise and rotate the latent and write it to its page.

        q (T, H (Dn + Dr)), head_dims = (H, Dn, Dr), rope part last in each head.  kv_a (T, R + Dr):
        the first R are normalised with `norm` (R,), the last Dr rotated (not normalised).
        interleaved: pairs (x[2i], x[2i + 1]); the result is written de-interleaved, all first
        members, then all second members, for q and k alike, as transformers does.  Else half-split.
        pages (P, 64, R + Dr).  Mutates q and the pages, not kv_a.
        """
        ...

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
        """MLA in the absorbed form: attend in latent space, out (T, H Dv).

        w_uk (H, R, Dn): q_c = q_nope @ w_uk[h].T; score = (q_c . c + q_rope . k_rope) * scale;
        w_uv (H, Dv, R): out = (softmax @ c) @ w_uv[h].T.  Source: DeepSeek-V2 paper section 2.1.2.
        """
        ...

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
        """MLA in the expanded form: keys and values of every head are rebuilt from the latents.

        kv_b (H (Dn + Dv), R), per head Dn key rows, then Dv value rows.  Latents are read from the
        pages (as stored), those of this step's own rows included.  out (T, H Dv).
        """
        ...

    def route(
        self, logits: F32, bias: F32 | None, spec: RouterSpec, experts: I32, weights: F32
    ) -> None:
        """Choose experts: fills experts (T, k) int32, ordered by falling choice score, and weights.

        s = sigmoid or softmax of the logits (T, E); s + bias chooses (groups first, dropped groups
        at -inf), s weighs.  Ties go to the lower index.
        """
        ...

    def moe(
        self,
        x: F32,
        experts: I32,
        weights: F32,
        routed: tuple[Matrix, Matrix],
        shared: tuple[Matrix, Matrix] | None,
        out: F32,
    ) -> None:
        """out (T, H) += sum_k weights[t, k] * mlp_{experts[t, k]}(x) + shared mlp(x).

        routed = gate_up (E, 2 I, H), down (E, H, I); shared the same, two-dimensional.  A row adds
        its experts in the order of `experts`, then the shared expert, then the sum to out.
        """
        ...

    def argmax(self, logits: F32, out: I32) -> None:
        """out (B,) = the index of each row's largest value; the lowest index among equals."""
        ...

    def top_logprobs(self, logits: F32, k: int) -> tuple[I32, F32, F32]:
        """The k best of each row: ids (B, k) by falling logit then rising id, their natural-log
        probabilities (B, k), and log-sum-exp (B,).  Returns new arrays."""
        ...
