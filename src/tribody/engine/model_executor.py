"""Carrying out a plan: ids become arrays, the model runs, the sampler draws.

Everything here is per step; nothing is per layer.  Arrays are made once, from lists: a decode step
has a few rows, for which a list costs less than a call of NumPy, and a small model's step takes
less than a millisecond, so that the interpreter shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tribody.core.clock import Clock, MonotonicClock
from tribody.core.config import LOGIT_ROWS, PAGE_SIZE, KVFormat
from tribody.core.request import Chunk, SampledToken, SampleSlot, StepPlan, StepResult
from tribody.engine.guidance import Guidance
from tribody.engine.pooling import add_states
from tribody.engine.sampler import I64, sample
from tribody.memory.kv_store import KVStore
from tribody.models.step_input import Model, StepInput
from tribody.ops.table import F32, AttentionBatch, Ops


def step_input(chunks: Sequence[Chunk], logit_rows: I64) -> StepInput:
    """The arrays of these chunks, in this order: those of generated tokens must come first.

    A chunk's page table covers all its positions; logit_rows may be filled in by the caller.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    row_starts = [0]
    width = max(len(chunk.page_table) for chunk in chunks)
    tables: list[list[int]] = []
    for chunk in chunks:
        table, end = chunk.page_table, chunk.start + len(chunk.token_ids)
        token_ids += chunk.token_ids
        for position in range(chunk.start, end):
            positions.append(position)
            slots.append(table[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE)
        row_starts.append(len(token_ids))
        tables.append(table + [-1] * (width - len(table)))
    return StepInput(
        token_ids=np.array(token_ids, np.int32),
        positions=np.array(positions, np.int64),
        slots=np.array(slots, np.int64),
        batch=AttentionBatch(
            np.array(row_starts, np.int32),
            np.array([chunk.start for chunk in chunks], np.int32),
            np.array(tables, np.int32),
        ),
        num_generated=sum(chunk.generated for chunk in chunks),
        logit_rows=logit_rows,
    )


class ModelExecutor:
    """Runs plans on one model and its pages.  Not safe for use by two threads at once.

    `draft_kv`: the pages of the model's drafter, as many as `kv` has; None if it is not to run.
    `guidance`: the engine's, which prepares the grammars that draws follow.
    """

    def __init__(
        self,
        model: Model,
        ops: Ops,
        kv: KVStore,
        max_step_tokens: int,
        draft_kv: KVStore | None = None,
        clock: Clock | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        self._model = model
        self._ops = ops
        self._kv = kv
        self._layers = range(model.config.num_hidden_layers)
        self._max_step_tokens = max_step_tokens
        self._draft_kv = draft_kv
        self._clock = clock or MonotonicClock()
        self._guidance = guidance

    def run(self, plan: StepPlan) -> StepResult:
        """See `Executor.run`."""
        for kv in (self._kv, self._draft_kv):
            if kv is not None:
                kv.copy_pages(plan.page_copies)
        result = StepResult(plan.step_id, [])
        if not plan.chunks:
            return result
        chunks = sorted(plan.chunks, key=lambda chunk: not chunk.generated)
        wanted: list[int] = []  # rows of the step, in the model's order
        first_logits: dict[int, int] = {}  # by sequence id
        end = 0
        for chunk in chunks:
            end += len(chunk.token_ids)
            if chunk.samples:
                first_logits[chunk.sequence_id] = len(wanted)
                wanted.extend(range(end - 1 - chunk.num_drafts, end))
        step = step_input(chunks, np.array(wanted, np.int64))
        x = self._model.embed(step)
        self._model.run_layers(self._layers, x, step, self._kv)
        logits = self._model.logits(x, step)
        result.hidden_sums = self._pool(chunks, x)
        slots: list[SampleSlot] = []
        rows: list[int] = []
        for chunk in plan.chunks:
            if chunk.samples:
                first = first_logits[chunk.sequence_id]
                slots += chunk.samples
                rows.extend(first + bool(chunk.num_drafts) * i for i in range(len(chunk.samples)))
        if slots:
            rows_of_slots = np.array(rows, np.int64)
            result.tokens = sample(self._ops, logits, slots, rows_of_slots, self._guidance)
        if plan.draft_passes and self._draft_kv is not None:
            started = self._clock.now()
            followed = follow(step, chunks, _drawn(plan, result.tokens))
            result.drafts = self._draft(followed, plan.draft_passes, self._draft_kv)
            result.draft_seconds = self._clock.now() - started
        return result

    def _pool(self, chunks: Sequence[Chunk], x: F32) -> dict[int, bytes]:
        """Add the states of chunks whose requests are pooled; `x` is the step's stream."""
        sums: dict[int, bytes] = {}
        end = 0
        for chunk in chunks:
            first, end = end, end + len(chunk.token_ids)
            if chunk.hidden_sum is not None:
                states = self._model.normed(x, np.arange(first, end))
                sums[chunk.sequence_id] = add_states(chunk, states)
        return sums

    def _draft(self, followed: Followed, passes: int, kv: KVStore) -> dict[int, list[int]]:
        """Let the drafter follow the step; its guesses by sequence id.

        Passes after the first go on from its own guesses, as far as a sequence's pages reach.
        """
        drafter = self._model.drafter
        assert drafter is not None
        if not len(followed.rows):
            return {}
        hidden = drafter.hidden(followed.rows)
        tokens, _ = drafter.draft(followed.step, hidden, passes, kv)
        guesses: dict[int, list[int]] = {}
        for sequence_id, found in zip(followed.asked, tokens.T.tolist(), strict=True):
            guesses[sequence_id] = found[: found.index(-1)] if -1 in found else found
        return guesses

    def logit_chunks(
        self, token_ids: Sequence[int], first: int, kv_format: KVFormat
    ) -> Iterator[tuple[int, F32]]:
        """(position, logits (R, V)) of the positions [first, T) of one prompt, R at a time.

        Uses pages of its own, so a running engine's are not touched.  Each array is a view that
        the next iteration, or the next step, overwrites.
        """
        num_pages = -(-len(token_ids) // PAGE_SIZE)
        kv = KVStore(self._model.kv_layout, num_pages, kv_format)
        for start, end in pieces(len(token_ids), first, self._max_step_tokens):
            chunk = Chunk(
                sequence_id=0,
                token_ids=list(token_ids[start:end]),
                start=start,
                page_table=list(range(num_pages)),
                generated=False,
            )
            wanted = np.arange(max(first - start, 0), end - start)
            logits = self._model.forward(step_input([chunk], wanted), kv)
            if len(wanted):
                yield start + int(wanted[0]), logits


def _drawn(plan: StepPlan, tokens: Sequence[SampledToken]) -> dict[int, list[int]]:
    """By sequence id, the tokens drawn for its first choice; -1 where none could be drawn."""
    drawn: dict[int, list[int]] = {}
    left = iter(tokens)
    for chunk in plan.chunks:
        if chunk.samples:
            run = [next(left) for _ in chunk.samples]
            mine = run if chunk.num_drafts else run[:1]
            drawn[chunk.sequence_id] = [token.token_id for token in mine if not token.skipped]
    return drawn


@dataclass(frozen=True, slots=True)
class Followed:
    """The rows of a step after which the token is known, each with that token.

    rows (T,) int64: their places in the step.  asked: the sequences that drew, in the order of
    `step.logit_rows`.
    """

    step: StepInput
    rows: I64
    asked: list[int]


def follow(step: StepInput, chunks: Sequence[Chunk], drawn: Mapping[int, list[int]]) -> Followed:
    """What is settled of the step that computed these chunks.

    That is every row but a chunk's last, whose token is the chunk's `next_token_id` or was drawn
    from it; rows of drafts if they were right.
    """
    token_ids: list[int] = []
    rows: list[int] = []
    row_starts, kept = [0], []
    heads: list[int] = []
    asked: list[int] = []
    end = 0
    for index, chunk in enumerate(chunks):
        first, end = end, end + len(chunk.token_ids)
        tokens = drawn.get(chunk.sequence_id, [])
        following = chunk.next_token_id
        draws = following is None and bool(tokens)
        if draws:
            following = tokens[-1]
        if following is None or following < 0:
            continue
        count = len(chunk.token_ids) - chunk.num_drafts + max(0, len(tokens) - 1)
        token_ids += chunk.token_ids[1:count]
        token_ids.append(following)
        rows.extend(range(first, first + count))
        row_starts.append(len(rows))
        kept.append(index)
        if draws:
            heads.append(len(rows) - 1)
            asked.append(chunk.sequence_id)
    places, batch, num_generated = np.array(rows, np.int64), step.batch, step.num_generated
    starts, tables = batch.starts, batch.page_tables
    if len(kept) < len(chunks):
        starts, tables = starts[kept], tables[kept]
        num_generated = sum(index < num_generated for index in kept)
    settled = StepInput(
        token_ids=np.array(token_ids, np.int32),
        positions=step.positions[places],
        slots=step.slots[places],
        batch=AttentionBatch(np.array(row_starts, np.int32), starts, tables),
        num_generated=num_generated,
        logit_rows=np.array(heads, np.int64),
    )
    return Followed(settled, places, asked)


def pieces(length: int, first: int, largest: int) -> list[tuple[int, int]]:
    """[0, length) cut at `first`: steps of `largest` before it, of LOGIT_ROWS at most after."""
    cuts = [*range(0, first, largest), *range(first, length, min(LOGIT_ROWS, largest)), length]
    return list(itertools.pairwise(cuts))
