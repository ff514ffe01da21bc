"""Rotation, head norms and the stores to pages against the reference, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ops.cases import EPS
from tests.ops.paged_cases import Dtype, assert_close, unwritten
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.table import F32, I64, Ops


def angles(positions: I64, half: int) -> tuple[F32, F32]:
    frequencies = 10000.0 ** (-np.arange(half) / half)
    turned = positions[:, None] * frequencies
    return np.cos(turned).astype(np.float32), np.sin(turned).astype(np.float32)


def tolerance(dtype: Dtype, size: int, largest: float) -> float:
    """A rotation adds three roundings, a norm over `size` elements size + 6, a store one."""
    store = float(np.finfo(dtype).eps) if dtype is np.float16 else 0.0
    return (store + EPS * (size + 9)) * 2 * largest


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("heads", [(9, 3, 64), (4, 4, 16), (3, 1, 20), (2, 2, 128)])
@pytest.mark.parametrize("rows", [1, 65, 130])
def test_rope_store(
    isa: str, rows: int, heads: tuple[int, int, int], normed: bool, dtype: Dtype
) -> None:
    num_heads, num_kv_heads, dim = heads
    rng = np.random.default_rng(rows)
    qkv = rng.standard_normal((rows, (num_heads + 2 * num_kv_heads) * dim)).astype(np.float32)
    qk_norm = None
    if normed:
        weights = rng.standard_normal((2, dim)).astype(np.float32)
        qk_norm = (weights[0], weights[1], 1e-6)
    slots = rng.permutation(4 * 64)[:rows].astype(np.int64)
    cos_sin = angles(np.arange(rows) + 17, dim // 2)

    def run(ops: Ops) -> tuple[NDArray[Any], ...]:
        out = qkv.copy()
        k = unwritten((4, num_kv_heads, dim, 64), dtype)
        v = unwritten((4, num_kv_heads, 64, dim), dtype)
        ops.rope_store(out, heads, cos_sin, qk_norm, slots, (k, v))
        return out, k, v

    actual, expected = run(native.OPS), run(reference.OPS)
    kept = slice(num_heads * dim, None)
    assert np.array_equal(actual[0][:, kept], qkv[:, kept])  # k and v of qkv are read only
    assert np.array_equal(actual[2], expected[2], equal_nan=True)
    for a, e, stored in ((actual[0], expected[0], np.float32), (actual[1], expected[1], dtype)):
        assert np.array_equal(np.isnan(a), np.isnan(e))
        largest = float(np.nan_to_num(np.abs(e)).max(initial=0)) * 2
        assert_close(np.nan_to_num(a), np.nan_to_num(e), tolerance(stored, dim, largest))


def test_stores_round_to_nearest_even(isa: str) -> None:
    """Every float16, the ties between two of them, and their float32 neighbours."""
    codes = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (codes[:-1] + codes[1:]) / 2
    values = np.concatenate([codes, ties, np.nextafter(ties, np.float32(0)), -ties, [65520, 1e9]])
    values = np.resize(values, -(-len(values) // 128) * 128)
    values = values.astype(np.float32).reshape(-1, 1, 128)
    rows = len(values)
    qkv = np.concatenate([values, values, values], axis=1).reshape(rows, 3 * 128)
    num_pages = -(-rows // 64)
    k = np.zeros((num_pages, 1, 128, 64), np.float16)
    v = np.zeros((num_pages, 1, 64, 128), np.float16)
    still = np.ones((rows, 64), np.float32), np.zeros((rows, 64), np.float32)
    native.OPS.rope_store(qkv, (1, 1, 128), still, None, np.arange(rows), (k, v))
    with np.errstate(over="ignore"):
        expected = values[:, 0].astype(np.float16)
    assert np.array_equal(v.reshape(-1, 128)[:rows], expected)
    assert np.array_equal(k.transpose(0, 3, 1, 2).reshape(-1, 128)[:rows], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dims", "rank"), [((16, 128, 64), 512), ((3, 24, 8), 40)])
@pytest.mark.parametrize("rows", [1, 65, 130])
def test_mla_store(
    isa: str,
    rows: int,
    head_dims: tuple[int, int, int],
    rank: int,
    interleaved: bool,
    dtype: Dtype,
) -> None:
    num_heads, nope, rope = head_dims
    rng = np.random.default_rng(rows)
    q = rng.standard_normal((rows, num_heads * (nope + rope))).astype(np.float32)
    wide = rng.standard_normal((rows, rank + rope + 5)).astype(np.float32)
    kv_a = wide[:, 2 : 2 + rank + rope]  # a view of wider rows, not aligned to a vector
    norm = rng.standard_normal(rank).astype(np.float32)
    slots = rng.permutation(4 * 64)[:rows].astype(np.int64)
    cos_sin = angles(np.arange(rows) + 3, rope // 2)

    def run(ops: Ops) -> tuple[NDArray[Any], ...]:
        out, pages = q.copy(), unwritten((4, 64, rank + rope), dtype)
        ops.mla_store(out, head_dims, kv_a, norm, 1e-6, cos_sin, interleaved, slots, pages)
        return out, pages

    actual, expected = run(native.OPS), run(reference.OPS)
    for a, e, stored in zip(actual, expected, (np.float32, dtype), strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(e))
        largest = float(np.nan_to_num(np.abs(e)).max(initial=0)) * 2
        assert_close(np.nan_to_num(a), np.nan_to_num(e), tolerance(stored, rank, largest))


def test_rows_are_stored_alike_in_any_batch(isa: str) -> None:
    rng = np.random.default_rng(4)
    heads, rows = (9, 3, 64), 150
    qkv = rng.standard_normal((rows, 15 * 64)).astype(np.float32)
    weights = rng.standard_normal((2, 64)).astype(np.float32)
    cos, sin = angles(np.arange(rows), 32)
    slots = np.arange(rows)

    def run(size: int) -> tuple[NDArray[Any], ...]:
        out = qkv.copy()
        k, v = np.zeros((3, 3, 64, 64), np.float16), np.zeros((3, 3, 64, 64), np.float16)
        for s in range(0, rows, size):
            part = slice(s, s + size)
            qk_norm = (weights[0], weights[1], 1e-5)
            native.OPS.rope_store(
                out[part], heads, (cos[part], sin[part]), qk_norm, slots[part], (k, v)
            )
        return out, k, v

    whole = run(rows)
    for size in (1, 64, 97):
        for a, b in zip(run(size), whole, strict=True):
            assert np.array_equal(a, b)


def test_no_rows() -> None:
    none = np.zeros((0, 8), np.float32)
    k, v = np.zeros((1, 1, 16, 64), np.float16), np.zeros((1, 1, 64, 16), np.float16)
    qkv, slots = np.zeros((0, 3 * 16), np.float32), np.zeros(0, np.int64)
    native.OPS.rope_store(qkv, (1, 1, 16), (none, none), None, slots, (k, v))
    pages, norm = np.zeros((1, 64, 24), np.float16), np.ones(8, np.float32)
    kv_a = np.zeros((0, 24), np.float32)
    native.OPS.mla_store(qkv, (2, 8, 16), kv_a, norm, 1e-6, (none, none), True, slots, pages)
    assert not any(array.any() for array in (k, v, pages))


def test_slots_outside_the_pages_are_refused() -> None:
    qkv = np.zeros((1, 3 * 16), np.float32)
    k, v = np.zeros((2, 1, 16, 64), np.float16), np.zeros((2, 1, 64, 16), np.float16)
    cos_sin = np.ones((1, 8), np.float32), np.zeros((1, 8), np.float32)
    for slot in (-1, 128):
        with pytest.raises(ShapeError, match="expected 0 to 127"):
            native.OPS.rope_store(qkv, (1, 1, 16), cos_sin, None, np.array([slot]), (k, v))
    with pytest.raises(ShapeError, match="K pages"):
        native.OPS.rope_store(
            qkv,
            (1, 1, 16),
            cos_sin,
            None,
            np.array([0]),
            (k.astype(np.float64), v),  # type: ignore[arg-type]
        )
