"""Latent attention, absorbed and expanded, against the reference on every instruction set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.ops.cases import FORMATS
from tests.ops.paged_cases import (
    DEPTHS,
    PROMPTS,
    Dtype,
    Layout,
    Sequence,
    assert_close,
    dot_error,
    latent_pages,
    lay_out,
    one_of,
    row_norm,
    softmax_tolerance,
)
from tribody import _native
from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.table import F32, AttentionBatch, Ops, Pages


@dataclass(frozen=True)
class Shape:
    """One model's head_dims (H, Dn, Dr), latent rank R and value columns Dv."""

    heads: int
    nope: int
    rope: int
    rank: int
    value: int

    @property
    def head_dims(self) -> tuple[int, int, int]:
        return self.heads, self.nope, self.rope

    @property
    def scale(self) -> float:
        return float((self.nope + self.rope) ** -0.5)


SMALL = Shape(heads=3, nope=24, rope=8, rank=40, value=20)
SHAPES = [SMALL, Shape(4, 16, 8, 32, 16), Shape(2, 128, 64, 512, 128), Shape(40, 8, 2, 8, 8)]


@dataclass(frozen=True)
class Problem:
    shape: Shape
    layout: Layout
    pages: Pages
    q: F32
    kv_b: F32  # (H (Dn + Dv), R)

    @classmethod
    def random(cls, shape: Shape, sequences: list[Sequence], dtype: Dtype, seed: int) -> Problem:
        rng = np.random.default_rng(seed)
        layout = lay_out(sequences, rng)
        pages = latent_pages(layout, shape.rank + shape.rope, dtype, rng)
        width = shape.heads * (shape.nope + shape.rope)
        q = rng.standard_normal((layout.rows, width + 3)).astype(np.float32)[:, :width]
        kv_b = rng.standard_normal((shape.heads * (shape.nope + shape.value), shape.rank))
        return cls(shape, layout, pages, q, (kv_b * shape.rank**-0.5).astype(np.float32))

    def only(self, b: int) -> Problem:
        """The rows of sequence b alone."""
        first, end = self.layout.batch.row_starts[b : b + 2]
        layout = Layout(one_of(self.layout.batch, b), self.layout.num_pages, [])
        return replace(self, layout=layout, q=self.q[first:end])

    def split(self) -> tuple[F32, F32]:
        """W_UK (H, R, Dn) and W_UV (H, Dv, R), as a model derives them from kv_b."""
        by_head = self.kv_b.reshape(self.shape.heads, -1, self.shape.rank)
        keys, values = np.split(by_head, [self.shape.nope], axis=1)
        return np.ascontiguousarray(keys.swapaxes(1, 2)), np.ascontiguousarray(values)

    def absorbed(self, ops: Ops, weight_format: WeightFormat) -> F32:
        w_uk, w_uv = (ops.pack(w, weight_format) for w in self.split())
        out = np.full((len(self.q), self.shape.heads * self.shape.value), np.nan, np.float32)
        ops.mla_attend_absorbed(
            self.q,
            self.shape.head_dims,
            w_uk,
            w_uv,
            self.pages,
            self.layout.batch,
            self.shape.scale,
            out,
        )
        return out

    def expanded(self, ops: Ops, weight_format: WeightFormat) -> F32:
        kv_b = ops.pack(self.kv_b, weight_format)
        out = np.full((len(self.q), self.shape.heads * self.shape.value), np.nan, np.float32)
        ops.mla_attend_expanded(
            self.q, self.shape.head_dims, kv_b, self.pages, self.layout.batch, self.shape.scale, out
        )
        return out

    def tolerance(self, *, absorbed: bool, weight_format: WeightFormat) -> float:
        """Roundings of the products with kv_b's parts, of the scores and of the weighted sums.

        Products over R or Dn move scores by at most (lengths) roundings of |q| |W| |latent|, and
        values likewise.  With A8 activations the absorbed form rounds the mixed latents to codes;
        where the two sides fall on different sides of a tie, one step of a group's scale (largest /
        127) is let through for each group and output.
        """
        shape = self.shape
        by_head = self.q.reshape(len(self.q), shape.heads, shape.nope + shape.rope)
        weights = self.kv_b.reshape(shape.heads, -1, shape.rank)
        # The largest singular value of a Gaussian matrix (Davidson and Szarek).
        w_norm = shape.rank**-0.5 * (len(weights[0]) ** 0.5 + shape.rank**0.5 + 6)
        latent_norm = row_norm(self.pages)
        length = max((len(slots) for slots in self.layout.slots), default=0)
        terms = shape.rank + shape.nope + shape.rope
        score_error = dot_error(row_norm(by_head) * max(w_norm, 1.0), latent_norm, terms)
        value = row_norm(weights) * latent_norm
        mixed = softmax_tolerance(score_error * shape.scale, length, value)
        total = mixed + 2 * dot_error(row_norm(weights), latent_norm, shape.rank)
        if absorbed and weight_format == "w8g32":
            step = float(np.nan_to_num(np.abs(self.pages)).max(initial=0)) / 127
            total += step * float(np.abs(weights).max()) * -(-shape.rank // 32)
        return total


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_reference(isa: str, shape: Shape, dtype: Dtype) -> None:
    prompts = PROMPTS if shape.rank < 100 else [PROMPTS[3], PROMPTS[7], PROMPTS[-1]]
    for index, sequences in enumerate(prompts):
        problem = Problem.random(shape, sequences, dtype, index)
        for absorbed in (True, False):
            run = problem.absorbed if absorbed else problem.expanded
            tolerance = problem.tolerance(absorbed=absorbed, weight_format="float32")
            assert_close(run(native.OPS, "float32"), run(reference.OPS, "float32"), tolerance)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_weight_formats(isa: str, shape: Shape, weight_format: WeightFormat) -> None:
    problem = Problem.random(shape, [Sequence(0, 70), Sequence(100, 2)], np.float16, 3)
    for absorbed in (True, False):
        run = problem.absorbed if absorbed else problem.expanded
        tolerance = problem.tolerance(absorbed=absorbed, weight_format=weight_format)
        assert_close(run(native.OPS, weight_format), run(reference.OPS, weight_format), tolerance)


def test_the_two_forms_agree() -> None:
    problem = Problem.random(SMALL, [Sequence(0, 130), Sequence(70, 3)], np.float32, 8)
    tolerance = problem.tolerance(absorbed=True, weight_format="float32")
    assert_close(
        problem.absorbed(native.OPS, "float32"), problem.expanded(native.OPS, "float32"), tolerance
    )


@pytest.mark.parametrize("weight_format", ["float32", "w8g32"])
@pytest.mark.parametrize("absorbed", [True, False])
@pytest.mark.parametrize("shape", [SMALL, Shape(4, 16, 8, 32, 16)])
def test_a_row_does_not_depend_on_its_batch(
    isa: str, shape: Shape, absorbed: bool, weight_format: WeightFormat
) -> None:
    """Whole, in chunks, token by token, beside eight others, on 1, 2, 5 threads: the same bits."""
    rng = np.random.default_rng(5)
    others = [Sequence(int(rng.integers(0, 300)), int(rng.integers(1, 20))) for _ in range(8)]
    length = 530
    problem = Problem.random(shape, [*others[:4], Sequence(0, length), *others[4:]], np.float16, 6)
    first = int(problem.layout.batch.row_starts[4])
    table = problem.layout.batch.page_tables[4:5]

    def attend(p: Problem) -> F32:
        run = p.absorbed if absorbed else p.expanded
        return run(native.OPS, weight_format)

    def alone(start: int, end: int) -> F32:
        rows = np.array([0, end - start], np.int32)
        batch = AttentionBatch(rows, np.array([start], np.int32), table)
        layout = Layout(batch, problem.layout.num_pages, [])
        q = problem.q[first + start : first + end]
        return attend(Problem(shape, layout, problem.pages, q, problem.kv_b))

    whole = alone(0, length)
    for size, begin in ((1, 500), (7, 250), (64, 0), (77, 0)):
        chunks = [alone(s, min(s + size, length)) for s in range(begin, length, size)]
        assert np.array_equal(np.concatenate(chunks), whole[begin:]), f"chunks of {size}"
    before = _native.num_threads()
    for threads in (1, 2, 5):
        _native.set_num_threads(threads)
        assert np.array_equal(alone(0, length), whole)
        assert np.array_equal(attend(problem)[first : first + length], whole)
    _native.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [SMALL, Shape(16, 16, 8, 32, 16), Shape(40, 8, 2, 8, 8)])
def test_an_absorbed_context_may_be_cut_between_threads(
    isa: str, shape: Shape, dtype: Dtype
) -> None:
    """One token at each depth, alone or beside the others, on 1, 2, 3 threads: the same bits."""
    problem = Problem.random(shape, [Sequence(depth, 1) for depth in DEPTHS], dtype, 11)
    before, batched, single = _native.num_threads(), [], []
    for threads in (1, 2, 3):
        _native.set_num_threads(threads)
        batched.append(problem.absorbed(native.OPS, "float32"))
        single.append(
            np.concatenate(
                [problem.only(b).absorbed(native.OPS, "float32") for b in range(len(DEPTHS))]
            )
        )
    _native.set_num_threads(before)
    for result in (*batched[1:], *single):
        assert np.array_equal(result, batched[0])


@pytest.mark.parametrize("absorbed", [True, False])
def test_every_instruction_set_gives_the_same_bits(absorbed: bool) -> None:
    problem = Problem.random(SMALL, [*PROMPTS[9], *PROMPTS[-1]], np.float16, 9)
    before, results = _native.current_isa(), []
    for level in _native.isa_levels():
        _native.set_isa(level)
        results.append((problem.absorbed if absorbed else problem.expanded)(native.OPS, "float32"))
    _native.set_isa(before)
    for result in results[1:]:
        assert np.array_equal(result, results[0])


def test_many_rows_are_absorbed_in_several_passes() -> None:
    """128 heads of rank 512 take 64 rows a pass; a sequence is cut between two passes."""
    shape = Shape(128, 2, 2, 512, 2)
    problem = Problem.random(shape, [Sequence(3, 50), Sequence(60, 40)], np.float16, 1)
    tolerance = problem.tolerance(absorbed=True, weight_format="float32")
    assert_close(
        problem.absorbed(native.OPS, "float32"),
        problem.absorbed(reference.OPS, "float32"),
        tolerance,
    )


def test_matrices_that_do_not_fit_are_refused() -> None:
    problem = Problem.random(SMALL, [Sequence(0, 2)], np.float32, 0)
    ops, batch, out = native.OPS, problem.layout.batch, np.zeros((2, 60), np.float32)
    w_uk, w_uv = (ops.pack(w, "float32") for w in problem.split())
    kv_b = ops.pack(problem.kv_b, "float32")

    def absorbed(**changes: object) -> None:
        given: dict[str, object] = {"w_uk": w_uk, "w_uv": w_uv, "head_dims": SMALL.head_dims}
        given |= changes
        ops.mla_attend_absorbed(
            problem.q,
            pages=problem.pages,
            batch=batch,
            scale=1.0,
            out=out,
            **given,  # type: ignore[arg-type]
        )

    with pytest.raises(ShapeError, match="w_uk"):
        absorbed(w_uk=kv_b)
    with pytest.raises(ShapeError, match="w_uv"):
        absorbed(w_uv=w_uk)
    with pytest.raises(ShapeError, match="columns of w_uk"):
        absorbed(head_dims=(3, 16, 16))
    with pytest.raises(ShapeError, match="kv_b"):
        ops.mla_attend_expanded(problem.q, (3, 24, 8), w_uv, problem.pages, batch, 1.0, out)
    with pytest.raises(ShapeError, match="rows of out"):
        ops.mla_attend_expanded(problem.q, (3, 24, 8), kv_b, problem.pages, batch, 1.0, out[:1])
    pages = problem.pages[:, :, :47]
    with pytest.raises(ShapeError, match="latent pages"):
        ops.mla_attend_expanded(problem.q, (3, 24, 8), kv_b, pages, batch, 1.0, out)
