"""Cases of attention over pages for the case file: rope_store, attend, mla_store, mla_attend_*.

Problems and tolerances are those of tests/ops.
"""

from __future__ import annotations

import numpy as np

from tests.native.case_file import Apart, Argument, Case, Expected, Weights
from tests.ops.paged_cases import (
    Dtype,
    Layout,
    Sequence,
    dot_error,
    gqa_pages,
    lay_out,
    row_norm,
    softmax_tolerance,
    unwritten,
)
from tests.ops.test_mla import Problem, Shape
from tests.ops.test_rope import angles, tolerance
from tribody.core.config import WeightFormat
from tribody.ops import reference
from tribody.ops.table import F32

REFERENCE = reference.OPS


def rows_of(layout: Layout) -> dict[str, Argument]:
    """The fields of an AttentionBatch."""
    batch = layout.batch
    return {
        "row_starts": batch.row_starts,
        "starts": batch.starts,
        "page_tables": Apart(batch.page_tables),
    }


def shape_of(sequences: list[Sequence]) -> str:
    return " ".join(f"{s.rows}@{s.start}" for s in sequences) or "nothing"


def attend(heads: tuple[int, int, int], sequences: list[Sequence], dtype: Dtype, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    num_heads, num_kv_heads, dim = heads
    layout = lay_out(sequences, rng)
    pages = gqa_pages(layout, num_kv_heads, dim, dtype, rng)
    # q is the first columns of wider rows, as the model passes it.
    q = rng.standard_normal((layout.rows, (num_heads + 2 * num_kv_heads) * dim), np.float32)
    expected = np.zeros((layout.rows, num_heads * dim), np.float32)
    REFERENCE.attend(q, heads, pages, layout.batch, dim**-0.5, expected)
    length = max((len(slots) for slots in layout.slots), default=0)
    q_norm = row_norm(q[:, : num_heads * dim].reshape(-1, dim))
    score_error = dot_error(q_norm, row_norm(pages[0].swapaxes(2, 3)), dim) * dim**-0.5
    largest = float(np.nan_to_num(np.abs(pages[1])).max(initial=0))
    return Case(
        f"attend {np.dtype(dtype).name} {heads} {shape_of(sequences)}",
        "attend",
        {
            "q": Apart(q),
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "head_dim": dim,
            "k_pages": pages[0],
            "v_pages": pages[1],
            **rows_of(layout),
            "scale": dim**-0.5,
        },
        {"out": Expected(expected, softmax_tolerance(score_error, length, largest))},
    )


def rope_store(heads: tuple[int, int, int], rows: int, dtype: Dtype, *, normed: bool) -> Case:
    num_heads, num_kv_heads, dim = heads
    rng = np.random.default_rng(rows)
    qkv = rng.standard_normal((rows, (num_heads + 2 * num_kv_heads) * dim), np.float32)
    qk_norm = None
    if normed:
        weights = rng.standard_normal((2, dim), np.float32)
        qk_norm = weights[0], weights[1], 1e-6
    slots = rng.permutation(4 * 64)[:rows].astype(np.int64)
    cos, sin = angles(np.arange(rows) + 17, dim // 2)
    k = unwritten((4, num_kv_heads, dim, 64), dtype)
    v = unwritten((4, num_kv_heads, 64, dim), dtype)
    out, k_after, v_after = qkv.copy(), k.copy(), v.copy()
    REFERENCE.rope_store(out, heads, (cos, sin), qk_norm, slots, (k_after, v_after))

    def allowed(values: F32, stored: Dtype) -> float:
        return tolerance(stored, dim, 2 * float(np.nan_to_num(np.abs(values)).max(initial=0)))

    return Case(
        f"rope_store {np.dtype(dtype).name} {heads} {rows} rows{' normed' * normed}",
        "rope_store",
        {
            "qkv": Apart(qkv),
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "head_dim": dim,
            "cos": Apart(cos),
            "sin": Apart(sin),
            "q_norm": None if qk_norm is None else qk_norm[0],
            "k_norm": None if qk_norm is None else qk_norm[1],
            "eps": 1e-6,
            "slots": slots,
            "k_pages": k,
            "v_pages": v,
        },
        {
            "qkv": Expected(out, allowed(out, np.float32)),
            "k_pages": Expected(k_after, allowed(k_after, dtype)),
            "v_pages": Expected(v_after),
        },
    )


def mla_store(shape: Shape, rows: int, dtype: Dtype, *, interleaved: bool) -> Case:
    rng = np.random.default_rng(rows)
    width = shape.rank + shape.rope
    q = rng.standard_normal((rows, shape.heads * (shape.nope + shape.rope)), np.float32)
    kv_a, norm = (
        rng.standard_normal((rows, width), np.float32),
        rng.standard_normal(shape.rank, np.float32),
    )
    slots = rng.permutation(4 * 64)[:rows].astype(np.int64)
    cos, sin = angles(np.arange(rows) + 3, shape.rope // 2)
    pages = unwritten((4, 64, width), dtype)
    out, after = q.copy(), pages.copy()
    REFERENCE.mla_store(
        out, shape.head_dims, kv_a, norm, 1e-6, (cos, sin), interleaved, slots, after
    )

    def allowed(values: F32, stored: Dtype) -> float:
        largest = 2 * float(np.nan_to_num(np.abs(values)).max(initial=0))
        return tolerance(stored, shape.rank, largest)

    return Case(
        f"mla_store {np.dtype(dtype).name} {shape} {rows} rows{' interleaved' * interleaved}",
        "mla_store",
        {
            "q": Apart(q),
            "num_heads": shape.heads,
            "nope": shape.nope,
            "rope": shape.rope,
            "kv_a": Apart(kv_a),
            "norm": norm,
            "eps": 1e-6,
            "cos": Apart(cos),
            "sin": Apart(sin),
            "interleaved": int(interleaved),
            "slots": slots,
            "pages": pages,
        },
        {
            "q": Expected(out, allowed(out, np.float32)),
            "pages": Expected(after, allowed(after, dtype)),
        },
    )


def mla_attend(problem: Problem, weight_format: WeightFormat, *, absorbed: bool) -> Case:
    shape, layout = problem.shape, problem.layout
    if absorbed:
        w_uk, w_uv = problem.split()
        matrices = {
            "w_uk": Weights(w_uk, weight_format),
            "w_uv": Weights(w_uv, weight_format),
        }
        expected = problem.absorbed(REFERENCE, weight_format)
    else:
        matrices = {"kv_b": Weights(problem.kv_b, weight_format)}
        expected = problem.expanded(REFERENCE, weight_format)
    allowed = problem.tolerance(absorbed=absorbed, weight_format=weight_format)
    starts, rows = layout.batch.starts, np.diff(layout.batch.row_starts)
    sequences = [Sequence(int(s), int(r)) for s, r in zip(starts, rows, strict=True)]
    operator = "mla_attend_absorbed" if absorbed else "mla_attend_expanded"
    return Case(
        f"{operator} {weight_format} {problem.pages.dtype.name} {shape} {shape_of(sequences)}",
        operator,
        {
            "q": Apart(np.ascontiguousarray(problem.q)),
            "num_heads": shape.heads,
            "nope": shape.nope,
            "rope": shape.rope,
            "value_dim": shape.value,
            **matrices,
            "pages": problem.pages,
            **rows_of(layout),
            "scale": shape.scale,
        },
        {"out": Expected(expected, allowed)},
    )
