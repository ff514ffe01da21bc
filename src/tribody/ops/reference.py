"""Every operator in plain NumPy float32: the specification that other backends are held to.

It is written to be read.  Nothing here is tuned, and loops run over tokens and heads where that
says more plainly what is meant.  Contracts (shapes, what is mutated) stand in `ops.table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tribody.core.config import PAGE_SIZE, WeightFormat
from tribody.core.errors import ShapeError
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
    check_settings,
)
from tribody.precision import codes, layout, quantize
from tribody.precision.codes import Parts
from tribody.precision.formats import FORMATS


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceMatrix:
    """A weight as its codes, and the values that they stand for, in float32."""

    values: F32
    format: WeightFormat
    parts: Parts

    @classmethod
    def of(cls, weight_format: WeightFormat, parts: Parts, columns: int) -> ReferenceMatrix:
        return cls(codes.decode(weight_format, parts, columns), weight_format, parts)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def num_bytes(self) -> int:
        return self.values.nbytes

    @property
    def buffer(self) -> U8:
        packed = layout.to_bytes(self.format, self.parts, self.shape)
        packed.setflags(write=False)
        return packed


def silu(x: F32) -> F32:
    """x * sigmoid(x), without overflow for large negative x."""
    with np.errstate(over="ignore"):
        return np.asarray(x / (np.float32(1) + np.exp(-x)), np.float32)


def rotate(x: F32, cos: F32, sin: F32, *, interleaved: bool) -> F32:
    """Rotary embedding of x (T, ..., D) by cos, sin (T, D / 2); the result is half-split."""
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else np.split(x, 2, axis=-1)
    shape = (len(x),) + (1,) * (x.ndim - 2) + (-1,)
    c, s = cos.reshape(shape), sin.reshape(shape)
    return np.concatenate([first * c - second * s, second * c + first * s], axis=-1)


def normalize(x: F32, weight: F32, eps: float) -> F32:
    variance = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
    return np.asarray(x / np.sqrt(variance + np.float32(eps)) * weight, np.float32)


def matmul(x: F32, matrix: ReferenceMatrix, expert: int | None = None) -> F32:
    """x (T, K) @ W.T.  Integer weights meet int8 activations (A8), exactly as on the machine."""
    weights = matrix.values if expert is None else matrix.values[expert]
    if x.shape[-1] != weights.shape[-1]:
        raise ShapeError(f"linear: x has {x.shape[-1]} columns, weights have {weights.shape[-1]}")
    if FORMATS[matrix.format].takes_a8:
        a8, scales = quantize.quantize_a8(np.ascontiguousarray(x))
        x = quantize.out_of_groups(a8.astype(np.float32) * scales[..., None], x.shape[-1])
    result: F32 = x @ weights.T
    return result


def mlp(x: F32, gate_up: ReferenceMatrix, down: ReferenceMatrix, expert: int | None = None) -> F32:
    gate, up = np.split(matmul(x, gate_up, expert), 2, axis=-1)
    return matmul(silu(gate) * up, down, expert)


def softmax_attend(q: F32, keys: F32, values: F32, position: int, scale: float) -> F32:
    """One row's attention: q (H, D), keys (S, H or 1, D), values (S, H or 1, Dv), S > position."""
    scores = np.einsum("hd,shd->hs", q, np.broadcast_to(keys, (len(keys), *q.shape)))
    scores = scores[:, : position + 1] * np.float32(scale)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    values = np.broadcast_to(values, (len(values), len(q), values.shape[-1]))
    result: F32 = np.einsum("hs,shd->hd", weights, values[: position + 1])
    return result


def gather(pages: Pages, page_table: I32, length: int) -> F32:
    """Pages (P, 64, ...) of one sequence -> float32 (length, ...)."""
    wanted = page_table[: -(-length // PAGE_SIZE)]
    return pages[wanted].astype(np.float32).reshape(-1, *pages.shape[2:])[:length]


def rows_of(batch: AttentionBatch) -> list[tuple[int, int, int, I32]]:
    """(first row, end row, first position, page table) of each sequence."""
    starts = batch.row_starts
    return [
        (int(starts[b]), int(starts[b + 1]), int(batch.starts[b]), batch.page_tables[b])
        for b in range(len(batch.starts))
    ]


def _own(matrix: Matrix) -> ReferenceMatrix:
    assert isinstance(matrix, ReferenceMatrix)
    return matrix


class ReferenceOps:
    """The table filled with NumPy."""

    name = "reference"

    def tunables(self) -> tuple[Tunable, ...]:
        return ()

    def tune(self, settings: Mapping[str, Setting]) -> None:
        check_settings(self.tunables(), settings)

    def pack(self, weights: F32, weight_format: WeightFormat) -> ReferenceMatrix:
        parts = codes.encode(weights, weight_format)
        return ReferenceMatrix.of(weight_format, parts, weights.shape[-1])

    def pack_stack(
        self, weights: Iterable[F32], shape: tuple[int, int, int], weight_format: WeightFormat
    ) -> ReferenceMatrix:
        whole = np.stack([np.asarray(matrix) for matrix in weights])
        if whole.shape != shape:
            raise ShapeError(f"pack_stack: the matrices make {whole.shape}, not {shape}")
        return self.pack(whole, weight_format)

    def pack_codes(
        self, weight_format: WeightFormat, parts: Parts, shape: tuple[int, ...]
    ) -> ReferenceMatrix:
        codes.check_parts(weight_format, parts, shape)
        own = tuple(np.array(part) for part in parts)
        return ReferenceMatrix.of(weight_format, own, shape[-1])

    def unpack(self, matrix: Matrix) -> Parts:
        return tuple(np.array(part) for part in _own(matrix).parts)

    def from_bytes(
        self, weight_format: WeightFormat, shape: tuple[int, ...], buffer: U8
    ) -> ReferenceMatrix:
        layout.check_buffer(weight_format, shape, buffer)
        parts = layout.from_bytes(weight_format, buffer, shape)
        return ReferenceMatrix.of(weight_format, parts, shape[-1])

    def embed(self, table: Matrix, token_ids: I32, out: F32) -> None:
        out[:] = _own(table).values[token_ids]

    def rms_norm(self, x: F32, weight: F32, eps: float, out: F32) -> None:
        out[:] = normalize(x, weight, eps)

    def linear(
        self, x: F32, weights: Matrix, bias: F32 | None, residual: F32 | None, out: F32
    ) -> None:
        result = matmul(x, _own(weights))
        if bias is not None:
            result = result + bias
        out[:] = result if residual is None else result + residual

    def norm_linear(
        self, x: F32, norm: F32, eps: float, weights: Matrix, bias: F32 | None, out: F32
    ) -> None:
        self.linear(normalize(x, norm, eps), weights, bias, None, out)

    def norm_mlp(self, x: F32, norm: F32, eps: float, gate_up: Matrix, down: Matrix) -> None:
        x += mlp(normalize(x, norm, eps), _own(gate_up), _own(down))

    def rope_store(
        self,
        qkv: F32,
        heads: tuple[int, int, int],
        cos_sin: tuple[F32, F32],
        qk_norm: tuple[F32, F32, float] | None,
        slots: I64,
        pages: tuple[Pages, Pages],
    ) -> None:
        num_heads, num_kv_heads, head_dim = heads
        split = qkv.reshape(len(qkv), -1, head_dim)
        q, k = split[:, :num_heads], split[:, num_heads : num_heads + num_kv_heads]
        if qk_norm is not None:
            q, k = normalize(q, qk_norm[0], qk_norm[2]), normalize(k, qk_norm[1], qk_norm[2])
        qkv[:, : num_heads * head_dim] = rotate(q, *cos_sin, interleaved=False).reshape(
            len(qkv), -1
        )
        k_pages, v_pages = pages
        page, offset = slots // PAGE_SIZE, slots % PAGE_SIZE
        k_pages[page, :, :, offset] = rotate(k, *cos_sin, interleaved=False)
        v_pages[page, :, offset] = split[:, num_heads + num_kv_heads :]

    def attend(
        self,
        q: F32,
        heads: tuple[int, int, int],
        pages: tuple[Pages, Pages],
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        num_heads, num_kv_heads, head_dim = heads
        share = num_heads // num_kv_heads
        k_pages = pages[0].transpose(0, 3, 1, 2)  # (P, 64, Hkv, D)
        v_pages = pages[1].transpose(0, 2, 1, 3)
        for first, end, start, table in rows_of(batch):
            length = start + end - first
            keys = np.repeat(gather(k_pages, table, length), share, axis=1)
            values = np.repeat(gather(v_pages, table, length), share, axis=1)
            for row in range(first, end):
                heads_of_row = q[row, : num_heads * head_dim].reshape(num_heads, head_dim)
                position = start + row - first
                out[row] = softmax_attend(heads_of_row, keys, values, position, scale).reshape(-1)

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
        num_heads, nope, rope = head_dims
        by_head = q.reshape(len(q), num_heads, nope + rope)
        rotated = rotate(by_head[..., nope:], *cos_sin, interleaved=interleaved)
        columns = np.arange(num_heads * (nope + rope)).reshape(num_heads, -1)[:, nope:].ravel()
        q[:, columns] = rotated.reshape(len(q), -1)
        rank = len(norm)
        latent = normalize(kv_a[:, :rank], norm, eps)
        k_rope = rotate(kv_a[:, rank:], *cos_sin, interleaved=interleaved)
        row = np.concatenate([latent, k_rope], axis=-1)
        pages[slots // PAGE_SIZE, slots % PAGE_SIZE] = row

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
        num_heads, nope, rope = head_dims
        by_head = q.reshape(len(q), num_heads, nope + rope)
        rank = _own(w_uk).shape[1]
        latent_q = np.stack(
            [matmul(by_head[:, h, :nope], _own(w_uk), h) for h in range(num_heads)], axis=1
        )
        full_q = np.concatenate([latent_q, by_head[..., nope:]], axis=-1)  # (T, H, R + Dr)
        mixed = np.empty((len(q), num_heads, rank), np.float32)
        for first, end, start, table in rows_of(batch):
            cached = gather(pages, table, start + end - first)[:, None]
            for row in range(first, end):
                mixed[row] = softmax_attend(
                    full_q[row], cached, cached[..., :rank], start + row - first, scale
                )
        for h in range(num_heads):
            width = _own(w_uv).shape[1]
            out[:, h * width : (h + 1) * width] = matmul(mixed[:, h], _own(w_uv), h)

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
        num_heads, nope, rope = head_dims
        outputs, rank = kv_b.shape
        by_head = q.reshape(len(q), num_heads, nope + rope)
        for first, end, start, table in rows_of(batch):
            cached = gather(pages, table, start + end - first)
            kv = matmul(cached[:, :rank], _own(kv_b))
            kv = kv.reshape(len(cached), num_heads, outputs // num_heads)
            k_rope = np.broadcast_to(cached[:, None, rank:], (len(cached), num_heads, rope))
            keys = np.concatenate([kv[..., :nope], k_rope], axis=-1)
            for row in range(first, end):
                out[row] = softmax_attend(
                    by_head[row], keys, kv[..., nope:], start + row - first, scale
                ).reshape(-1)

    def route(
        self, logits: F32, bias: F32 | None, spec: RouterSpec, experts: I32, weights: F32
    ) -> None:
        if spec.scoring == "sigmoid":
            with np.errstate(over="ignore"):
                scores = np.float32(1) / (np.float32(1) + np.exp(-logits))
        else:
            scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
        choice = scores if bias is None else scores + bias
        if spec.num_groups > 1:
            size = choice.shape[-1] // spec.num_groups
            grouped = choice.reshape(len(choice), spec.num_groups, size)
            ranked = np.sort(grouped, axis=-1)
            group_score = (
                ranked[..., -1] if spec.group_score == "max" else ranked[..., -2:].sum(axis=-1)
            )
            kept = np.argsort(-group_score, axis=-1, kind="stable")[:, : spec.top_groups]
            mask = np.full(group_score.shape, -np.inf, np.float32)
            np.put_along_axis(mask, kept, 0, axis=-1)
            choice = (grouped + mask[..., None]).reshape(choice.shape)
        experts[:] = np.argsort(-choice, axis=-1, kind="stable")[:, : spec.top_k]
        chosen = np.take_along_axis(scores, experts.astype(np.int64), axis=-1)
        if spec.normalize:
            chosen = chosen / (chosen.sum(axis=-1, keepdims=True) + np.float32(1e-20))
        weights[:] = chosen * np.float32(spec.scale)

    def moe(
        self,
        x: F32,
        experts: I32,
        weights: F32,
        routed: tuple[Matrix, Matrix],
        shared: tuple[Matrix, Matrix] | None,
        out: F32,
    ) -> None:
        total = np.zeros_like(out)
        for t in range(len(x)):
            for expert, weight in zip(experts[t], weights[t], strict=True):
                total[t] += weight * mlp(x[t : t + 1], _own(routed[0]), _own(routed[1]), expert)[0]
        if shared is not None:
            total += mlp(x, _own(shared[0]), _own(shared[1]))
        out += total

    def argmax(self, logits: F32, out: I32) -> None:
        out[:] = np.argmax(logits, axis=-1)

    def top_logprobs(self, logits: F32, k: int) -> tuple[I32, F32, F32]:
        largest = logits.max(axis=-1, keepdims=True)
        log_sum = largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=-1))
        ids = np.argsort(-logits, axis=-1, kind="stable")[:, :k].astype(np.int32)
        best: F32 = np.take_along_axis(logits, ids.astype(np.int64), axis=-1) - log_sum[:, None]
        return ids, best, log_sum.astype(np.float32)


OPS: Ops = ReferenceOps()
