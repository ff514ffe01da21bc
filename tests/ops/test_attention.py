"""Paged grouped-query attention against the reference, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.paged_cases import (
    DEPTHS,
    PROMPTS,
    Dtype,
    Layout,
    Sequence,
    assert_close,
    dot_error,
    gqa_pages,
    lay_out,
    one_of,
    row_norm,
    softmax_tolerance,
)
from tribody import _native
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.table import F32, AttentionBatch, Pages

HEADS = [(9, 3, 64), (4, 4, 16), (14, 2, 64), (6, 1, 24), (5, 5, 20), (2, 1, 128), (64, 1, 8)]


def attend(
    q: F32, heads: tuple[int, int, int], pages: tuple[Pages, Pages], batch: AttentionBatch
) -> F32:
    out = np.full((len(q), heads[0] * heads[2]), np.nan, np.float32)
    native.OPS.attend(q, heads, pages, batch, heads[2] ** -0.5, out)
    return out


def queries(layout: Layout, heads: tuple[int, int, int], rng: np.random.Generator) -> F32:
    """q as the first columns of wider rows, as the model passes it."""
    num_heads, num_kv_heads, dim = heads
    shape = (layout.rows, (num_heads + 2 * num_kv_heads) * dim)
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("heads", HEADS)
def test_against_the_reference(isa: str, heads: tuple[int, int, int], dtype: Dtype) -> None:
    num_heads, num_kv_heads, dim = heads
    for index, sequences in enumerate(PROMPTS):
        rng = np.random.default_rng(index)
        layout = lay_out(sequences, rng)
        pages = gqa_pages(layout, num_kv_heads, dim, dtype, rng)
        q = queries(layout, heads, rng)
        expected = np.zeros((layout.rows, num_heads * dim), np.float32)
        reference.OPS.attend(q, heads, pages, layout.batch, dim**-0.5, expected)
        length = max((len(slots) for slots in layout.slots), default=0)
        q_norm = row_norm(q[:, : num_heads * dim].reshape(-1, dim))
        k_norm = row_norm(pages[0].swapaxes(2, 3))
        score_error = dot_error(q_norm, k_norm, dim) * dim**-0.5
        largest = float(np.nan_to_num(np.abs(pages[1])).max(initial=0))
        tolerance = softmax_tolerance(score_error, length, largest)
        assert_close(attend(q, heads, pages, layout.batch), expected, tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("heads", [(9, 3, 64), (7, 1, 16), (2, 2, 20)])
def test_a_row_does_not_depend_on_its_batch(
    isa: str, heads: tuple[int, int, int], dtype: Dtype
) -> None:
    """Whole, in chunks, token by token, beside eight others, on 1, 2, 5 threads: the same bits."""
    rng = np.random.default_rng(5)
    others = [Sequence(int(rng.integers(0, 300)), int(rng.integers(1, 20))) for _ in range(8)]
    layout = lay_out([*others[:4], Sequence(0, 600), *others[4:]], rng)
    pages = gqa_pages(layout, heads[1], heads[2], dtype, rng)
    q = queries(layout, heads, rng)
    first = int(layout.batch.row_starts[4])
    table = layout.batch.page_tables[4:5]

    def alone(start: int, end: int) -> F32:
        rows = np.array([0, end - start], np.int32)
        batch = AttentionBatch(rows, np.array([start], np.int32), table)
        return attend(q[first + start : first + end], heads, pages, batch)

    whole = alone(0, 600)
    for size, begin in ((1, 500), (7, 120), (64, 0), (77, 0)):
        chunks = [alone(s, min(s + size, 600)) for s in range(begin, 600, size)]
        assert np.array_equal(np.concatenate(chunks), whole[begin:]), f"chunks of {size}"
    before = _native.num_threads()
    for threads in (1, 2, 5):
        _native.set_num_threads(threads)
        assert np.array_equal(alone(0, 600), whole)
        assert np.array_equal(alone(599, 600), whole[599:])
        batched = attend(q, heads, pages, layout.batch)
        assert np.array_equal(batched[first : first + 600], whole)
    _native.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("heads", [(9, 3, 64), (4, 4, 20), (64, 1, 8)])
def test_a_context_may_be_cut_between_threads(
    isa: str, heads: tuple[int, int, int], dtype: Dtype
) -> None:
    """One token at each depth, alone or beside the others, on 1, 2, 3 threads: the same bits."""
    rng = np.random.default_rng(11)
    layout = lay_out([Sequence(depth, 1) for depth in DEPTHS], rng)
    pages = gqa_pages(layout, heads[1], heads[2], dtype, rng)
    q = queries(layout, heads, rng)
    before, batched, single = _native.num_threads(), [], []
    for threads in (1, 2, 3):
        _native.set_num_threads(threads)
        batched.append(attend(q, heads, pages, layout.batch))
        rows = [
            attend(q[b : b + 1], heads, pages, one_of(layout.batch, b)) for b in range(len(DEPTHS))
        ]
        single.append(np.concatenate(rows))
    _native.set_num_threads(before)
    for result in (*batched[1:], *single):
        assert np.array_equal(result, batched[0])


def test_every_instruction_set_gives_the_same_bits() -> None:
    rng = np.random.default_rng(9)
    layout = lay_out([*PROMPTS[9], *PROMPTS[-1]], rng)
    pages = gqa_pages(layout, 3, 40, np.float16, rng)
    q = queries(layout, (9, 3, 40), rng)
    before, results = _native.current_isa(), []
    for level in _native.isa_levels():
        _native.set_isa(level)
        results.append(attend(q, (9, 3, 40), pages, layout.batch))
    _native.set_isa(before)
    for result in results[1:]:
        assert np.array_equal(result, results[0])


def test_infinite_values_reach_only_the_rows_behind_them() -> None:
    rng = np.random.default_rng(1)
    layout = lay_out([Sequence(0, 40)], rng)
    pages = gqa_pages(layout, 1, 16, np.float16, rng)
    q = queries(layout, (2, 1, 16), rng)
    clean = attend(q, (2, 1, 16), pages, layout.batch)
    slot = int(layout.slots[0][30])
    pages[1][slot // 64, :, slot % 64] = np.inf
    spoiled = attend(q, (2, 1, 16), pages, layout.batch)
    assert np.array_equal(spoiled[:30], clean[:30])
    assert np.isinf(spoiled[30:]).all()


def test_arguments_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(2)
    heads = (4, 2, 16)
    layout = lay_out([Sequence(60, 10)], rng)
    k, v = gqa_pages(layout, 2, 16, np.float32, rng)
    q = queries(layout, heads, rng)
    good = layout.batch

    def refused(
        match: str, q: F32 = q, pages: tuple[Pages, Pages] = (k, v), **fields: object
    ) -> None:
        values = {name: getattr(good, name) for name in AttentionBatch.__slots__} | fields
        batch = AttentionBatch(**values)
        with pytest.raises(ShapeError, match=match):
            native.OPS.attend(q, heads, pages, batch, 1.0, np.zeros((10, 64), np.float32))

    refused("expected 2 axes", q=q.astype(np.float64))
    refused("rows", q=q[:9])
    refused("columns", q=q[:, :40])
    refused("K pages", pages=(k[:, :, :8], v))
    refused("V pages", pages=(k, v[:, :, ::2]))
    refused("differ", pages=(k, v.astype(np.float16)))
    refused("row_starts", row_starts=np.array([0, 9], np.int32))
    refused("row_starts", row_starts=good.row_starts.astype(np.int64))
    refused("starts", starts=np.array([-1], np.int32))
    refused("needs 20 pages", starts=np.array([1234], np.int32))
    refused("page 1 of sequence 0 is -1", page_tables=np.array([[0, -1]], np.int32))
    refused("page 0 of sequence 0 is 99", page_tables=np.array([[99, 0]], np.int32))
