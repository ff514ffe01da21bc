"""Carrying out a plan: ids become arrays, the model runs, the sampler draws.

Everything here is per step; nothing is per layer, and lists are turned into arrays once, since a
small model's decode step takes a few milliseconds and the interpreter shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from tribody.core.config import PAGE_SIZE, KVFormat
from tribody.core.request import Chunk, SampleSlot, StepPlan, StepResult
from tribody.engine.sampler import I64, sample
from tribody.memory.kv_store import KVStore
from tribody.models.step_input import Model, StepInput
from tribody.ops.table import F32, AttentionBatch, Ops

LOGIT_ROWS = 128
# Rows of logits computed at a time when all are wanted: 128 x 129,280 float32 are 66 MB.


def step_input(chunks: Sequence[Chunk], logit_rows: I64) -> StepInput:
    """The arrays of these chunks, in this order: those of generated tokens must come first.

    A chunk's page table covers all its positions; logit_rows may be filled in by the caller.
    """
    lengths = np.array([len(chunk.token_ids) for chunk in chunks], np.int64)
    starts = np.array([chunk.start for chunk in chunks], np.int64)
    row_starts = np.zeros(len(chunks) + 1, np.int64)
    np.cumsum(lengths, out=row_starts[1:])
    tables = np.full((len(chunks), max(len(chunk.page_table) for chunk in chunks)), -1, np.int32)
    for row, chunk in zip(tables, chunks, strict=True):
        row[: len(chunk.page_table)] = chunk.page_table
    num_rows = int(row_starts[-1])
    sequence_of_row = np.repeat(np.arange(len(chunks)), lengths)
    positions = np.arange(num_rows) + (starts - row_starts[:-1])[sequence_of_row]
    pages = tables[sequence_of_row, positions // PAGE_SIZE]
    return StepInput(
        token_ids=np.array([t for chunk in chunks for t in chunk.token_ids], np.int32),
        positions=positions,
        slots=pages.astype(np.int64) * PAGE_SIZE + positions % PAGE_SIZE,
        batch=AttentionBatch(row_starts.astype(np.int32), starts.astype(np.int32), tables),
        num_generated=sum(chunk.generated for chunk in chunks),
        logit_rows=logit_rows,
    )


class ModelExecutor:
    """Runs plans on one model and its pages.  Not safe for use by two threads at once."""

    def __init__(self, model: Model, ops: Ops, kv: KVStore, max_step_tokens: int) -> None:
        self._model = model
        self._ops = ops
        self._kv = kv
        self._max_step_tokens = max_step_tokens

    def run(self, plan: StepPlan) -> StepResult:
        """See `Executor.run`."""
        self._kv.copy_pages(plan.page_copies)
        if not plan.chunks:
            return StepResult(plan.step_id, [])
        order = sorted(range(len(plan.chunks)), key=lambda i: not plan.chunks[i].generated)
        chunks = [plan.chunks[i] for i in order]
        last_rows = np.cumsum([len(chunk.token_ids) for chunk in chunks]) - 1
        sampled = [place for place, chunk in enumerate(chunks) if chunk.samples]
        logits = self._model.forward(step_input(chunks, last_rows[sampled]), self._kv)
        if not sampled:
            return StepResult(plan.step_id, [])
        row_of_chunk = {order[place]: row for row, place in enumerate(sampled)}
        slots: list[SampleSlot] = []
        rows: list[int] = []
        for index, chunk in enumerate(plan.chunks):
            slots.extend(chunk.samples)
            rows.extend([row_of_chunk[index]] * len(chunk.samples) if chunk.samples else ())
        return StepResult(plan.step_id, sample(self._ops, logits, slots, np.array(rows, np.int64)))

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


def pieces(length: int, first: int, largest: int) -> list[tuple[int, int]]:
    """[0, length) cut at `first`: steps of `largest` before it, of LOGIT_ROWS at most after."""
    cuts = [*range(0, first, largest), *range(first, length, min(LOGIT_ROWS, largest)), length]
    return list(itertools.pairwise(cuts))
