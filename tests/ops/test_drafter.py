"""A drafter's passes in one call: the bits of its operators one by one, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.ops.cases import draw, rows_of
from tests.ops.paged_cases import Layout, Sequence, lay_out
from tests.ops.test_layers import LATENT, STEPS, Maker, step_of
from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.composed import ComposedDrafter, latent_drafter
from tribody.ops.layers import DraftModule, DraftRows, DraftStack
from tribody.ops.table import F32, I32, I64, Pages

VOCABULARY, PASSES = 75, 4


def module(maker: Maker) -> DraftModule:
    size = LATENT.hidden_size
    return DraftModule(
        enorm=maker.vector(size),
        hnorm=maker.vector(size),
        eh_proj=maker.matrix(size, 2 * size),
        layer=maker.latent(LATENT, sparse=True),
        norm=maker.vector(size),
        embed_tokens=maker.matrix(VOCABULARY, size),
        lm_head=maker.matrix(VOCABULARY, size),
    )


def draft_rows(layout: Layout, num_generated: int, heads: list[int]) -> DraftRows:
    rng = np.random.default_rng(2)
    reach = layout.batch.page_tables.shape[1] * 64
    angles = rng.standard_normal((reach, 4)).astype(np.float32)
    return DraftRows(
        token_ids=rng.integers(0, VOCABULARY, layout.rows).astype(np.int32),
        step=step_of(layout, 8, num_generated),
        heads=np.array(heads, np.int64),
        angles=(np.cos(angles), np.sin(angles)),
    )


def drafted(
    stack: DraftStack, rows: DraftRows, pages: Pages, passes: int = PASSES
) -> tuple[I32, F32, Pages]:
    """What the passes say, the last states, and the pages after them."""
    hidden = rows_of(draw(np.random.default_rng(4), (len(rows.token_ids), 48)), strided=True)
    tokens = np.empty((passes, len(rows.heads)), np.int32)
    own = pages.copy()
    return tokens, stack.run(hidden, rows, own, tokens), own


def pages_of(layout: Layout) -> Pages:
    pages = np.random.default_rng(3).standard_normal((1, layout.num_pages, 64, 48))
    return pages.astype(np.float16)


def last_rows(layout: Layout) -> list[int]:
    starts = layout.batch.row_starts.tolist()
    return [end - 1 for first, end in itertools.pairwise(starts) if end > first]


@pytest.mark.parametrize("weight_format", ["float32", "w8g32", "w4m32"])
@pytest.mark.parametrize("sequences", STEPS, ids=str)
def test_all_passes_are_their_parts(
    isa: str, sequences: list[Sequence], weight_format: WeightFormat
) -> None:
    """From all rows in one pass; in four from the last rows, where page tables end on the way."""
    layout = lay_out(sequences, np.random.default_rng(6))
    pages, own = pages_of(layout), module(Maker(native.OPS, weight_format))
    whole = latent_drafter(native.OPS, own, LATENT)
    parts = ComposedDrafter(native.OPS, own, LATENT)
    for num_generated in {0, len(sequences)}:
        for heads, passes in ((list(range(layout.rows)), 1), (last_rows(layout), PASSES)):
            rows = draft_rows(layout, num_generated, heads)
            results = [drafted(stack, rows, pages, passes) for stack in (whole, parts)]
            for one, other in zip(*results, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_pass_is_what_a_first_pass_with_its_guess_would_be() -> None:
    """Feeding a guess and the last states by hand; a sequence at the end of its pages stops."""
    sequences = [Sequence(20, 3), Sequence(62, 1), Sequence(127, 1)]
    layout = lay_out(sequences, np.random.default_rng(7))
    stack = latent_drafter(native.OPS, module(Maker(native.OPS, "float32")), LATENT)
    rows, pages = draft_rows(layout, 3, last_rows(layout)), pages_of(layout)
    tokens, states, _ = drafted(stack, rows, pages, 3)
    assert tokens.tolist()[1][2] == -1, "position 128 has no page"
    assert tokens.tolist()[2][1:] == [-1, -1], "position 64 has none either"
    assert (tokens >= 0).sum() == 6
    once, state, pages = drafted(stack, rows, pages, 1)
    for place in range(2):
        going = [0, 1] if place == 0 else [0]
        ends = [Sequence(s.start + s.rows + place, 1) for s in sequences]
        batch = replace(
            layout.batch,
            row_starts=np.arange(len(going) + 1, dtype=np.int32),
            starts=np.array([ends[i].start for i in going], np.int32),
            page_tables=layout.batch.page_tables[going],
        )
        slots: I64 = np.array(
            [batch.page_tables[i, e // 64] * 64 + e % 64 for i, e in enumerate(batch.starts)],
            np.int64,
        )
        cos, sin = (part[batch.starts] for part in rows.angles)
        step = replace(rows.step, cos_sin=(cos, sin), slots=slots, batch=batch)
        next_rows = DraftRows(
            token_ids=once[0, going],
            step=replace(step, num_generated=len(going)),
            heads=np.arange(len(going)),
            angles=rows.angles,
        )
        once = np.empty((1, len(going)), np.int32)
        state = stack.run(state[going], next_rows, pages, once)
        assert once[0].tolist() == tokens[place + 1, going].tolist()
    np.testing.assert_array_equal(state[0], states[0])


def test_a_machine_without_whole_drafters_runs_their_parts() -> None:
    own = module(Maker(reference.OPS, "float32"))
    assert isinstance(latent_drafter(reference.OPS, own, LATENT), ComposedDrafter)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    own = module(Maker(native.OPS, "w8g32"))
    for name, wrong in (
        ("enorm", replace(own, enorm=np.ones(47, np.float32))),
        ("eh_proj columns", replace(own, eh_proj=own.lm_head)),
        ("embed_tokens rows", replace(own, embed_tokens=own.layer.o_proj)),
    ):
        with pytest.raises(ShapeError, match=name.split(maxsplit=1)[0]):
            latent_drafter(native.OPS, wrong, LATENT)


def test_steps_that_do_not_fit_are_refused() -> None:
    layout = lay_out([Sequence(3, 2), Sequence(9, 1)], np.random.default_rng(8))
    stack = latent_drafter(native.OPS, module(Maker(native.OPS, "w8g32")), LATENT)
    pages = pages_of(layout)
    good = draft_rows(layout, 2, [1, 2])
    beyond = layout.batch.page_tables.copy()
    beyond[0, 1] = layout.num_pages
    far = replace(layout.batch, page_tables=beyond)
    drafted(stack, good, pages, 2)
    for match, wrong, passes in (
        ("token 0", replace(good, token_ids=good.token_ids + 75), 2),
        ("not its sequence's last", replace(good, heads=np.array([0, 2])), 2),
        ("head 1 is row 1", replace(good, heads=np.array([1, 1])), 2),
        ("head 1 is row 3", replace(good, heads=np.array([1, 3])), 2),
        ("angles", replace(good, angles=(good.angles[0][:10], good.angles[1][:10])), 2),
    ):
        with pytest.raises(ShapeError, match=match):
            drafted(stack, wrong, pages, passes)
    with pytest.raises(ShapeError, match="out of range"):
        drafted(stack, replace(good, step=replace(good.step, batch=far)), pages, 70)
