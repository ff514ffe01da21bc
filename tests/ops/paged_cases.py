"""Paged attention problems, and how far two float32 computations of one may be apart.

Page memory that no row may read is NaN: a kernel that reads past a row's position shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.ops.cases import EPS
from tribody.ops.table import F32, I64, AttentionBatch

PAGE = 64
Dtype = type[np.float32] | type[np.float16]


@dataclass(frozen=True)
class Sequence:
    """`rows` rows of this step, the first of them at position `start`."""

    start: int
    rows: int


PROMPTS = [
    [Sequence(0, 1)],
    [Sequence(0, 63)],
    [Sequence(0, 64)],
    [Sequence(0, 65)],
    [Sequence(0, 200)],
    [Sequence(63, 1)],
    [Sequence(64, 1)],
    [Sequence(199, 1)],
    [Sequence(70, 90)],
    [Sequence(0, 3), Sequence(128, 1), Sequence(5, 66), Sequence(63, 2)],
    [Sequence(10, 1), Sequence(300, 1), Sequence(64, 0), Sequence(0, 0), Sequence(127, 1)],
    [],
    # Contexts of several segments of 256 positions, each with a softmax of its own.
    [Sequence(255, 1)],
    [Sequence(256, 1)],
    [Sequence(250, 12)],
    [Sequence(1029, 1), Sequence(0, 1), Sequence(500, 20), Sequence(767, 2)],
]

# Where the rows of single tokens stand in the tests that cut contexts: about the ends of pages and
# of segments.
DEPTHS = (0, 1, 63, 64, 65, 255, 256, 257, 511, 512, 700, 1030)


@dataclass(frozen=True)
class Layout:
    """Where the sequences of a step have their pages: disjoint and shuffled."""

    batch: AttentionBatch
    num_pages: int
    slots: list[I64]  # of every position [0, start + rows) of each sequence

    @property
    def rows(self) -> int:
        return int(self.batch.row_starts[-1])


def lay_out(sequences: list[Sequence], rng: np.random.Generator) -> Layout:
    needed = [-(-(s.start + s.rows) // PAGE) for s in sequences]
    num_pages = sum(needed) + 2  # two that nobody owns
    shuffled = rng.permutation(num_pages).astype(np.int32)
    tables = np.full((len(sequences), max(needed, default=0) + 1), -1, np.int32)
    slots = []
    for b, count in enumerate(needed):
        tables[b, :count], shuffled = shuffled[:count], shuffled[count:]
        positions = np.arange(sequences[b].start + sequences[b].rows)
        slots.append(tables[b, positions // PAGE].astype(np.int64) * PAGE + positions % PAGE)
    ends = np.cumsum([0] + [s.rows for s in sequences])
    starts = np.array([s.start for s in sequences], np.int32)
    return Layout(AttentionBatch(ends.astype(np.int32), starts, tables), num_pages, slots)


def one_of(batch: AttentionBatch, b: int) -> AttentionBatch:
    """Sequence b alone."""
    rows = np.array([0, batch.row_starts[b + 1] - batch.row_starts[b]], np.int32)
    return AttentionBatch(rows, batch.starts[b : b + 1], batch.page_tables[b : b + 1])


def unwritten(shape: tuple[int, ...], dtype: Dtype) -> NDArray[Any]:
    return np.full(shape, np.nan, dtype)


def gqa_pages(
    layout: Layout, num_kv_heads: int, dim: int, dtype: Dtype, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """K (P, Hkv, D, 64) and V (P, Hkv, 64, D): every position of every sequence, else NaN."""
    k = unwritten((layout.num_pages, num_kv_heads, dim, PAGE), dtype)
    v = unwritten((layout.num_pages, num_kv_heads, PAGE, dim), dtype)
    for slots in layout.slots:
        page, offset = slots // PAGE, slots % PAGE
        k[page, :, :, offset] = rng.standard_normal((len(slots), num_kv_heads, dim))
        v[page, :, offset] = rng.standard_normal((len(slots), num_kv_heads, dim))
    return k, v


def latent_pages(
    layout: Layout, width: int, dtype: Dtype, rng: np.random.Generator
) -> NDArray[Any]:
    """Latents (P, 64, R + Dr): every position of every sequence, else NaN."""
    pages = unwritten((layout.num_pages, PAGE, width), dtype)
    for slots in layout.slots:
        pages[slots // PAGE, slots % PAGE] = rng.standard_normal((len(slots), width))
    return pages


def softmax_tolerance(score_error: float, length: int, largest_value: float) -> float:
    """Bound on |a - b| of two attention outputs, each computed in float32.

    score_error: bound on one side's absolute error of a scaled score.  Each side's weights are off
    by a factor exp(2 score_error); sums over `length` positions add `length` roundings of weights
    and values each, the online rescaling four a page.
    """
    pages = -(-length // PAGE)
    relative = 2 * score_error + EPS * (2 * length + 4 * pages + 8)
    return 2 * relative * largest_value


def dot_error(a_norm: float, b_norm: float, length: int) -> float:
    """Bound on the float32 error of a dot product in any order of summation.

    6 sqrt(n) roundings of |a| |b| instead of the worst case's n: roundings behave as a random walk,
    and six standard deviations are never met (Higham and Mary, SIAM J. Sci. Comput. 41, 2019).
    """
    return EPS * 6 * float(np.sqrt(length + 2)) * a_norm * b_norm


def row_norm(x: NDArray[Any]) -> float:
    """The largest Euclidean norm along the last axis; NaN entries count as zero."""
    finite = np.nan_to_num(x.astype(np.float64))
    return float(np.sqrt(np.square(finite).sum(axis=-1)).max(initial=0))


def assert_close(actual: F32, expected: F32, tolerance: float) -> None:
    assert np.isfinite(actual).all()
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0)
    assert error <= tolerance, f"off by {error:.3g}, allowed {tolerance:.3g}"
