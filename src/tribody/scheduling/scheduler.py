"""The scheduler: who runs in the next step, with how many tokens, on which pages.  Ids only.

Two queues.  `running` sequences hold pages; `waiting` ones do not.  A step spends one token budget:
first every running sequence that decodes, then prompts in their order, in chunks, then newly
admitted ones; prompts take no more of it than keeps the step short for those that decode (`pace`).
When pages run out the last in order is preempted: its pages go (full ones stay in the prefix tree)
and it waits, at its old place, to be recomputed.  A request may be held back when it comes, in
neither queue, until it is released.

The order is that of arrival for one tenant's requests, and fair between tenants (`fairness`).
Nobody starves: both queues are served in order, the first of `waiting` is never jumped for want of
pages, and a request that could not fit in an empty pool is refused when it comes.  Background ones
stand behind all others: they are admitted while few sequences run, and make room for whoever comes.

It trades throughput for order: a small request never overtakes a large one that waits for pages.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping

from tribody.core.config import SchedulerConfig
from tribody.core.engine_info import EngineStats
from tribody.core.errors import BadRequest, Overloaded
from tribody.core.request import (
    Chunk,
    Event,
    FinishReason,
    Request,
    SampledToken,
    StepPlan,
    StepResult,
)
from tribody.memory.kv_memory import KVMemory, PageTable
from tribody.scheduling.admission import refuse_impossible
from tribody.scheduling.books import Books
from tribody.scheduling.drafting import DraftPlanner
from tribody.scheduling.events import Taken, event_of, pool
from tribody.scheduling.fairness import FairQueue
from tribody.scheduling.pace import PromptPace, Room
from tribody.scheduling.sequence import Drafting, Job, Sequence, finish_reason, order


class Scheduler:
    """`add` and `abort` requests; `plan` a step; `apply` its result to get events."""

    def __init__(
        self, config: SchedulerConfig, eos_token_ids: frozenset[int], fingerprint: bytes
    ) -> None:
        if config.max_step_tokens < config.max_running:
            raise ValueError("max_step_tokens must be at least max_running, or decodes would wait")
        self.config = config
        self.memory = KVMemory(config.num_pages, config.page_size, fingerprint)
        self.max_context = min(config.max_context_tokens, config.num_pages * config.page_size)
        self.drafts = DraftPlanner(config, self.memory, self.max_context)
        self.pace = PromptPace(config.step_stretch, config.max_step_tokens)
        self._room = self.pace.room(0)  # of the step under way
        self.running: list[Sequence] = []  # in order
        self.waiting = FairQueue()
        self.held: dict[str, Sequence] = {}  # by request, until it is released
        self._jobs: dict[str, Job] = {}
        self._eos = eos_token_ids
        self._num_arrivals = 0
        self._num_sequences = 0
        self.books = Books()

    # ---- requests in and out

    def add(self, request: Request, *, held: bool = False) -> None:
        """Queue a request, or hold it.  Raises BadRequest if it can never run, else Overloaded."""
        if request.id in self._jobs:
            raise BadRequest(f"request id {request.id} is already in use")
        refuse_impossible(request, self.max_context, self.config.max_running)
        num_waiting = len(self.waiting) + len(self.held)
        if num_waiting >= self.config.max_waiting:
            raise Overloaded(
                f"{num_waiting} requests are waiting, the most that may; try again later"
            )
        self._num_arrivals += 1
        job = self._jobs[request.id] = Job.of(request, self._num_arrivals)
        choices = sorted(job.live)
        trunk = self._sequence(job, choices[0])
        trunk.choices = choices
        if held:
            self.held[request.id] = trunk
        else:
            self.waiting.push(trunk)

    def release(self, request_id: str) -> None:
        """Queue a request that was held back, at its place by arrival."""
        self.waiting.push(self.held.pop(request_id))

    def fail(self, request_id: str, error: str) -> list[Event]:
        """End a request with an error."""
        return self._end(self._jobs[request_id], "error", error)

    def abort(self, request_id: str) -> list[Event]:
        """End all live choices of a request and free their pages.  Unknown ids are ignored."""
        job = self._jobs.get(request_id)
        if job is None:
            return []
        return self._end(job, "abort", None)

    def _end(self, job: Job, reason: FinishReason, error: str | None) -> list[Event]:
        self.held.pop(job.request.id, None)
        for sequence in [s for s in self.running if s.job is job]:
            self._retire(sequence)
        events = []
        for choice in sorted(job.live):
            job.live.discard(choice)
            events.append(self._event(job, choice, Taken([], reason, error)))
        return events

    def _sequence(self, job: Job, choice: int) -> Sequence:
        self._num_sequences += 1
        resumed = job.request.resumed
        generated = list(resumed[choice]) if choice < len(resumed) else []
        return Sequence(self._num_sequences, job, choice, [choice], generated)

    def _free(self, sequence: Sequence) -> None:
        if sequence.table is not None:
            self.memory.close(sequence.table)
            sequence.table = None
        sequence.num_computed = 0
        sequence.hidden_sum = b""
        sequence.drafting = Drafting()

    # ---- plan

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to do."""
        plan = StepPlan(self.books.steps + 1, [])
        budget = self.config.max_step_tokens
        decodes: list[Sequence] = []
        others: list[Sequence] = []
        for sequence in self.running:
            (decodes if sequence.num_pending == 1 else others).append(sequence)
        for sequence in decodes:
            budget -= self._schedule(plan, sequence, budget)
        self._room = room = self.pace.room(len(plan.chunks))
        for sequence in others:
            budget -= self._read(plan, sequence, room, budget)
        while min(budget, room.tokens(0)) and (first := self.waiting.first()) is not None:
            if not self._let_in(plan, first):
                break
            self.waiting.admit(first)
            insort(self.running, first, key=order)
            budget -= self._read(plan, first, room, budget)
        if not plan.chunks:
            return None
        # Beside prompts drafts only get what the pace allowed and prompts left.
        spare = min(budget, room.tokens(0)) if room.num_tokens else budget
        self.drafts.extend(plan, self.running, spare)
        self.books.steps += 1
        return plan

    def _read(self, plan: StepPlan, sequence: Sequence, room: Room, budget: int) -> int:
        """A chunk of a prompt, at its pace; returns the tokens it takes."""
        first = sequence.num_computed
        taken = self._schedule(plan, sequence, min(budget, room.tokens(first)))
        room.take(first, taken)
        return taken

    def _let_in(self, plan: StepPlan, first: Sequence) -> bool:
        """Admit the first of `waiting`, preempting background sequences if it is none itself."""
        if first.is_background:
            return len(self.running) < self.config.background_running and self._admit(first)
        while not self._admit(first):
            if not (self.running and self.running[-1].is_background):
                return False
            self._preempt(plan, self.running[-1])
        return True

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence the pages of its known tokens, if they and one more token fit.

        A trunk that is yet to fork looks up its prompt only, so that the fork's row is computed.
        One whose hidden states are wanted takes no page from the tree, and gives it none.
        """
        seats = sum(len(s.choices) for s in self.running) + len(sequence.choices)
        if seats > self.config.max_running:
            return False
        num_known = sequence.num_tokens
        num_searched = len(sequence.prompt) if len(sequence.choices) > 1 else num_known
        searched = [] if sequence.is_pooled else sequence.tokens(0, num_searched)
        table = self.memory.open(searched, sequence.job.request.cache_salt)
        table.detached = sequence.is_pooled
        wanted = min(num_known + 1, self.max_context)
        if self.memory.num_missing(table, wanted) > self.memory.num_available():
            self.memory.close(table)
            return False
        sequence.table = table
        sequence.num_computed = len(table.pages) * self.config.page_size
        sequence.drafting.followed_to = sequence.num_computed
        self.memory.grow(table, sequence.num_computed, num_known)
        if sequence.job.cached_tokens is None:
            hit = min(sequence.num_computed, len(sequence.prompt))
            sequence.job.cached_tokens = hit
            self.books.prompt_tokens += len(sequence.prompt)
            self.books.cached_tokens += hit
        return True

    def _schedule(self, plan: StepPlan, sequence: Sequence, budget: int) -> int:
        """Add a chunk for this sequence if pages allow; returns the tokens it takes."""
        if not budget or sequence.table is None:  # it may have been preempted
            return 0
        first, num_tokens = sequence.num_computed, sequence.num_tokens
        num_prompt = len(sequence.prompt)
        end = min(first + budget, num_tokens)
        if first < num_prompt:
            end = min(end, num_prompt)  # a chunk is all prompt or all generated
        table = self._grow(plan, sequence, first, end)
        if table is None:
            return 0
        chunk = Chunk(
            sequence_id=sequence.id,
            token_ids=sequence.tokens(first, end),
            start=first,
            page_table=table.pages.copy(),
            generated=first >= num_prompt,
            next_token_id=sequence.token_at(end) if end < num_tokens else None,
            hidden_sum=sequence.hidden_sum if sequence.is_pooled else None,
        )
        if end == num_prompt and not sequence.is_pooled:
            chunk.samples = [
                sequence.slot(choice)
                for choice in sequence.choices
                if not sequence.is_known_beyond_prompt(choice)
            ]
        elif end == num_tokens and not sequence.is_pooled:
            chunk.samples = [sequence.slot(sequence.choice)]
        plan.chunks.append(chunk)
        return end - first

    def _grow(self, plan: StepPlan, sequence: Sequence, first: int, end: int) -> PageTable | None:
        """Pages for positions [first, end), preempting later arrivals for them if need be."""
        while sequence.table is not None:
            copies = self.memory.grow(sequence.table, first, end)
            if copies is not None:
                plan.page_copies += copies
                return sequence.table
            self._preempt(plan, self.running[-1])
        return None

    def _preempt(self, plan: StepPlan, victim: Sequence) -> None:
        self.running.remove(victim)
        dropped = [chunk for chunk in plan.chunks if chunk.sequence_id == victim.id]
        if dropped and victim.table is not None:
            held = set(victim.table.pages)
            plan.page_copies = [pair for pair in plan.page_copies if pair[1] not in held]
            plan.chunks.remove(dropped[0])
        self._free(victim)
        self.waiting.push(victim)
        self.books.preemptions += 1

    # ---- apply

    def apply(
        self, plan: StepPlan, result: StepResult, stops: Mapping[tuple[str, int], int]
    ) -> list[Event]:
        """Take in a step's result.

        `stops`: (request id, choice) that met a stop string, and with which of its tokens in this
        step, counted from 1.
        """
        events: list[Event] = []
        tokens = iter(result.tokens)
        by_id = {sequence.id: sequence for sequence in self.running}
        for chunk in plan.chunks:
            sequence = by_id[chunk.sequence_id]
            drawn: dict[int, list[SampledToken]] = {}
            for slot in chunk.samples:
                token = next(tokens)
                if not token.skipped:
                    drawn.setdefault(slot.choice, []).append(token)
            taken = self._take(sequence, drawn, stops)
            self._settle(sequence, chunk, len(taken.tokens))
            if sequence.is_pooled:
                taken = pool(sequence, result.hidden_sums[sequence.id])
            if chunk.num_drafts:
                num_drawn = len(drawn[sequence.choice])
                self.drafts.settle(sequence, chunk, num_drawn, len(taken.tokens))
            if plan.draft_passes:
                self.drafts.follow(result, sequence, chunk)
            twins = self._fork(sequence) if sequence.num_computed == len(sequence.prompt) else []
            events += self._announce(sequence, taken)
            for twin in twins:
                events += self._announce(twin, self._take(twin, drawn, stops))
        self.drafts.learn(plan, result)
        self.pace.learn(self._room, sum(c.num_drafts for c in plan.chunks), result.seconds)
        return events

    def _take(
        self,
        sequence: Sequence,
        drawn: Mapping[int, list[SampledToken]],
        stops: Mapping[tuple[str, int], int],
    ) -> Taken:
        """Append and count the tokens drawn for a sequence, up to the one that ends it."""
        job, taken = sequence.job, Taken([])
        stop_after = stops.get((job.request.id, sequence.choice))
        for count, token in enumerate(drawn.get(sequence.choice, ()), 1):
            if token.error is not None:
                taken.finish, taken.error = "error", token.error
                break
            sequence.generated.append(token.token_id)
            job.completion_tokens += 1
            self.books.generated_tokens += 1
            taken.tokens.append(token)
            taken.finish = finish_reason(sequence, token.token_id, self._eos, self.max_context)
            taken.ended_by_token = taken.finish == "stop"
            if count == stop_after:
                taken.finish = "stop"
            if taken.finish is not None:
                break
        return taken

    def _settle(self, sequence: Sequence, chunk: Chunk, num_taken: int) -> None:
        """Rows of known tokens are computed now; pages that they fill are offered to the tree."""
        assert sequence.table is not None
        num_known = len(chunk.token_ids) - chunk.num_drafts
        sequence.num_computed += num_known + max(0, num_taken - 1)
        sequence.job.prefilled |= sequence.num_computed >= len(sequence.prompt)
        if self.memory.has_new_pages(sequence.table, sequence.num_computed):
            known, num_prompt = sequence.tokens(0, sequence.num_computed), len(sequence.prompt)
            self.memory.commit(sequence.table, known, sequence.num_computed, num_prompt)

    def _fork(self, trunk: Sequence) -> list[Sequence]:
        """The prompt is computed: give every other choice a sequence over the same pages."""
        assert trunk.table is not None
        others, trunk.choices = trunk.choices[1:], trunk.choices[:1]
        twins = []
        for choice in others:
            twin = self._sequence(trunk.job, choice)
            twin.num_computed = trunk.num_computed
            twin.drafting.followed_to = trunk.drafting.followed_to
            twin.table = self.memory.fork(trunk.table, trunk.num_computed)
            insort(self.running, twin, key=order)
            twins.append(twin)
        return twins

    def _announce(self, sequence: Sequence, taken: Taken) -> list[Event]:
        """The news of one choice, which ends if it is over."""
        job, events = sequence.job, []
        if taken.error is not None and taken.tokens:
            events.append(self._event(job, sequence.choice, Taken(taken.tokens)))
            taken.tokens = []
        if taken.finish is not None:
            self._retire(sequence)
            job.live.discard(sequence.choice)
        if taken.tokens or taken.finish is not None:
            events.append(self._event(job, sequence.choice, taken))
        return events

    def _retire(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._free(sequence)

    def _event(self, job: Job, choice: int, taken: Taken) -> Event:
        if taken.finish is not None and not job.live:
            del self._jobs[job.request.id]
            self.waiting.end(job)
        return event_of(job, choice, taken)

    # ---- books

    @property
    def num_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self._jobs)

    def fail_all(self, error: str) -> list[Event]:
        """End every request with an error: a step could not be run."""
        return [e for job in list(self._jobs.values()) for e in self._end(job, "error", error)]

    def stats(self, step_seconds: float = 0.0, busy_seconds: float = 0.0) -> EngineStats:
        """The books in one record; the engine adds the times, which the scheduler does not know."""
        queues = len(self.running), len(self.waiting) + len(self.held)
        times = step_seconds, busy_seconds
        return self.books.stats(self.memory.pool, self.drafts, queues, times)

    def check(self) -> None:
        """Conservation: pages, queues and jobs agree with each other."""
        self.memory.check()
        self.waiting.check()
        assert self.running == sorted(self.running, key=order)
        for sequence in self.running:
            assert sequence.table is not None
            assert len(sequence.table.pages) * self.config.page_size >= sequence.num_computed
            assert sequence.num_pending > 0
        idle = [*self.waiting, *self.held.values()]
        assert all(s.table is None for s in idle)
        live = {(s.job.request.id, c) for s in self.running + idle for c in s.choices}
        assert live == {(j.request.id, c) for j in self._jobs.values() for c in j.live}
        if not self._jobs:
            assert self.memory.pool.num_used == 0, "pages are held with no request alive"
