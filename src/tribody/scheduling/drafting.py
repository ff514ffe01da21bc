"""Drafts in a plan: which tokens a step computes on the chance that they come next.

A sequence that decodes computes one token a step.  Here its chunk gets some more behind it, taken
from the model's drafter or from the text's own past, and a draw for each row, so that a step yields
one token more than it had right drafts.  The draws themselves are those of a run without drafts.

Drafts only use what a step leaves over: of the token budget after everybody is served, and of the
pages those that are free.  Nobody waits, is preempted or loses a cached page for them.
"""

from __future__ import annotations

from tribody.core.config import LOGIT_ROWS, SchedulerConfig
from tribody.core.request import Chunk, StepPlan, StepResult
from tribody.memory.kv_memory import KVMemory
from tribody.scheduling.sequence import Sequence
from tribody.scheduling.speculation import Offer, Record, Speculation

INDEXED_PER_STEP = 1024
# Tokens of a sequence that one step adds to its index, about 0.5 ms: a long prompt is indexed over
# several steps, and nobody waits for it.

HARMLESS_HOLE = 64
# Tokens that the drafter may miss of a sequence without being doubted: a pause of a few steps must
# not end its work on the sequence.


class DraftPlanner:
    """`extend` a plan with drafts, then `settle` each of its chunks and `learn` from the step."""

    def __init__(self, config: SchedulerConfig, memory: KVMemory, max_context: int) -> None:
        self.policy = Speculation(config.draft_sources, config.max_drafts)
        self.num_drafted = self.num_accepted = 0
        self._timed = 0  # sequences of the step under way, if all of them decode
        self._sources = config.draft_sources
        self._max_drafts = config.max_drafts
        self._memory = memory
        self._max_context = max_context

    # ---- before the step

    def extend(self, plan: StepPlan, running: list[Sequence], budget: int) -> None:
        """Add drafts to the chunks that decode, and say whether the drafter is to run after it.

        A chunk decodes if it computes one pending token and draws its successor.
        """
        if not self._sources:
            return
        chunks = [
            chunk
            for chunk in plan.chunks
            if chunk.generated and chunk.samples and len(chunk.token_ids) == 1
        ]
        num_decoding, policy = len(chunks), self.policy
        self._timed = num_decoding if num_decoding == len(plan.chunks) else 0
        policy.enter(num_decoding or len(running))
        if policy.rests() if self._timed == len(running) else policy.pauses(len(running)):
            return
        by_id = {sequence.id: sequence for sequence in running}
        decoding = [(by_id[chunk.sequence_id], chunk) for chunk in chunks]
        look_up = "ngram" in self._sources and policy.may_look_up()
        offered: list[tuple[Sequence, Chunk, Offer, Record]] = []
        for sequence, chunk in decoding:
            offer = self._offer(sequence, look_up=look_up)
            if offer is not None:
                record = sequence.drafting.records[offer.source]
                offered.append((sequence, chunk, offer, record))
        if offered or look_up:
            num_rows = sum(len(chunk.samples) for chunk in plan.chunks)
            room = max(0, min(budget, LOGIT_ROWS - num_rows))
            counts = policy.share_out([(offer, record) for _, _, offer, record in offered], room)
            for (sequence, chunk, offer, _), count in zip(offered, counts, strict=True):
                if count:
                    self._add(sequence, chunk, offer, count)
        if "mtp" in self._sources:
            if num_decoding != len(running):
                policy.enter(len(running))  # those in their prompts are to decode soon
            for sequence, chunk in decoding:
                drafting = sequence.drafting
                missed = chunk.start - drafting.followed_to
                if missed > HARMLESS_HOLE and not drafting.has_holes:
                    drafting.has_holes = True
                    drafting.records["mtp"].doubt()
            records = [sequence.drafting.records["mtp"] for sequence, _ in decoding]
            plan.draft_passes = policy.num_passes(records, may_try=self._timed > 0)

    def _offer(self, sequence: Sequence, *, look_up: bool) -> Offer | None:
        """The better one of what the drafter guessed and what the text's past suggests."""
        drafting, num_tokens = sequence.drafting, sequence.num_tokens
        has_guesses = drafting.guesses and drafting.guessed_at == num_tokens
        if not has_guesses and not look_up:
            return None
        left = sequence.job.request.sampling.max_tokens - len(sequence.generated)
        count = min(self._max_drafts, left - 1, self._max_context - num_tokens - 1)
        if count < 1:
            return None
        offers = []
        if has_guesses:
            offers.append(Offer("mtp", 0, drafting.guesses[:count]))
        if look_up:
            grade, found = self._look_up(sequence, count)
            if found:
                offers.append(Offer("ngram", grade, found))
        if len(offers) < 2:
            return offers[0] if offers else None

        def expected(offer: Offer) -> float:
            return sum(self.policy.chances(offer, drafting.records[offer.source]))

        return max(offers, key=expected)

    def _look_up(self, sequence: Sequence, count: int) -> tuple[int, list[int]]:
        index = sequence.drafting.index
        known, indexed = sequence.num_tokens, len(index)
        if indexed < known:
            index.extend(sequence.tokens(indexed, min(known, indexed + INDEXED_PER_STEP)))
        return index.follow(count) if len(index) == known else (0, [])

    def _add(self, sequence: Sequence, chunk: Chunk, offer: Offer, count: int) -> None:
        """Put the first `count` drafts behind the chunk's token, as far as free pages go."""
        table, memory = sequence.table, self._memory
        assert table is not None
        end = chunk.start + len(chunk.token_ids)
        reach = (len(table.pages) + memory.pool.num_free) * memory.page_size
        drafts = offer.token_ids[: max(0, min(count, reach - end))]
        if not drafts:
            return
        copies = memory.grow(table, end, end + len(drafts))
        assert copies == [], "the page of the chunk's own token is the sequence's alone"
        chunk.token_ids += drafts
        chunk.num_drafts = len(drafts)
        chunk.page_table = list(table.pages)
        (own,) = chunk.samples
        chunk.samples += [own.behind(drafts[:count]) for count in range(1, len(drafts) + 1)]
        sequence.drafting.tried = Offer(offer.source, offer.grade, drafts)

    # ---- after the step

    def settle(self, sequence: Sequence, chunk: Chunk, num_drawn: int, num_taken: int) -> None:
        """`num_drawn` tokens came of a chunk with drafts, its right ones and one more; `num_taken`
        of them became part of the answer before it ended."""
        drafting = sequence.drafting
        tried, drafting.tried = drafting.tried, None
        assert tried is not None
        assert sequence.table is not None
        usual = tried.source != "mtp" or drafting.followed_to == chunk.start
        self.policy.learn(tried, drafting.records[tried.source], num_drawn - 1, usual=usual)
        self.num_drafted += chunk.num_drafts
        self.num_accepted += max(0, num_taken - 1)
        self._memory.trim(sequence.table, sequence.num_computed)

    @staticmethod
    def follow(result: StepResult, sequence: Sequence, chunk: Chunk) -> None:
        """The drafter ran: keep what it guessed, and how far it has followed the sequence."""
        drafting = sequence.drafting
        drafting.guesses = result.drafts.get(sequence.id, [])
        drafting.guessed_at = sequence.num_tokens
        if chunk.start <= drafting.followed_to:
            drafting.followed_to = sequence.num_computed

    def learn(self, plan: StepPlan, result: StepResult) -> None:
        """The time of a step that only decoded says what drafts cost."""
        if self._timed:
            rows = plan.num_tokens - self._timed
            drafting = plan.draft_passes, result.draft_seconds
            self.policy.learn_time(self._timed, rows, result.seconds, drafting)
