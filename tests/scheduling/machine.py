"""A scripted machine that runs a scheduler's plans and holds them to their word.

It is a pure function: the token after a known sequence is a hash of (prompt, choice, generated so
far), so any schedule must give every request the same tokens, whatever is drafted on the way.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tribody.core.config import SchedulerConfig
from tribody.core.request import (
    Chunk,
    Event,
    Request,
    SampledToken,
    SampleSlot,
    SamplingParams,
    StepPlan,
    StepResult,
)
from tribody.scheduling.scheduler import Scheduler

EOS = 7
STOP = 11  # completes the stop string of requests that have one

Guess = Callable[[list[int], int, list[int]], list[int]]
# (prompt, choice, generated) -> what the machine's drafter says comes next


def next_token(prompt: list[int], choice: int, generated: list[int]) -> int:
    text = repr((prompt, choice, generated)).encode()
    return hashlib.blake2b(text, digest_size=2).digest()[0] % 40


class Machine:
    """Runs plans: every page is written before it is read, every token drawn from its own text."""

    def __init__(self, scheduler: Scheduler, guess: Guess | None = None) -> None:
        self.scheduler = scheduler
        self.guess = guess
        self.size = scheduler.config.page_size
        self.pages: dict[int, dict[int, int]] = {}  # page -> offset -> token written there
        self.trace: list[tuple[object, ...]] = []
        self.drawn: set[str] = set()  # requests whose prompt was computed to its end

    def step(self) -> list[Event]:
        plan = self.scheduler.plan()
        if plan is None:
            return []
        assert 0 < plan.num_tokens <= self.scheduler.config.max_step_tokens
        assert len({c.sequence_id for c in plan.chunks}) == len(plan.chunks)
        for source, target in plan.page_copies:
            self.pages[target] = dict(self.pages[source])
        for chunk in plan.chunks:
            for i, token in enumerate(chunk.token_ids):
                page = chunk.page_table[(chunk.start + i) // self.size]
                assert self.scheduler.memory.pool.holders(page) == 1, "wrote a shared page"
                self.pages.setdefault(page, {})[(chunk.start + i) % self.size] = token
        result = self.result(plan)
        stops: dict[tuple[str, int], int] = {}
        for chunk in plan.chunks:
            drawn = self.draw(chunk)
            self.drawn.update(slot.request_id for slot in chunk.samples)
            self.look_for_stops(chunk, drawn, stops)
            result.tokens += drawn
            if plan.draft_passes and self.guess is not None and chunk.samples:
                slot = chunk.samples[0]
                tokens = [t.token_id for t in drawn if not t.skipped]
                generated = slot.generated + (tokens if chunk.num_drafts else tokens[:1])
                guesses = self.guess(slot.prompt_token_ids, slot.choice, generated)
                result.drafts[chunk.sequence_id] = guesses[: plan.draft_passes]
        self.trace.append((plan.num_tokens, tuple(len(c.token_ids) for c in plan.chunks)))
        return self.scheduler.apply(plan, result, stops)

    def result(self, plan: StepPlan) -> StepResult:
        """To be filled with tokens; a machine that keeps time says how long it took."""
        return StepResult(plan.step_id, [])

    def draw(self, chunk: Chunk) -> list[SampledToken]:
        """One token a slot; slots behind a wrong draft are skipped."""
        assert not chunk.num_drafts or len(chunk.samples) == 1 + chunk.num_drafts
        first_row = chunk.start + len(chunk.token_ids) - 1 - chunk.num_drafts
        drawn: list[SampledToken] = []
        for place, slot in enumerate(chunk.samples):
            row = first_row + (place if chunk.num_drafts else 0)
            if slot.drafts and drawn[-1].token_id != slot.drafts[-1]:
                drawn.append(SampledToken(slot.sequence_id, -2, skipped=True))
            else:
                drawn.append(self.sample(chunk, slot, row))
        return drawn

    def sample(self, chunk: Chunk, slot: SampleSlot, row: int) -> SampledToken:
        generated = slot.generated + slot.drafts
        known = slot.prompt_token_ids + generated
        assert row == len(known) - 1
        assert slot.position == len(generated)
        for position, token in enumerate(known):  # the cache holds exactly this sequence
            page = chunk.page_table[position // self.size]
            assert self.pages[page][position % self.size] == token
        token = next_token(slot.prompt_token_ids, slot.choice, generated)
        return SampledToken(slot.sequence_id, token)

    @staticmethod
    def look_for_stops(
        chunk: Chunk, drawn: list[SampledToken], stops: dict[tuple[str, int], int]
    ) -> None:
        """As the engine does: it knows stop strings, but not where tokens end an answer."""
        counts: dict[int, int] = {}
        for slot, token in zip(chunk.samples, drawn, strict=True):
            counts[slot.choice] = counts.get(slot.choice, 0) + 1
            if token.token_id == STOP and slot.params.stop:
                stops.setdefault((slot.request_id, slot.choice), counts[slot.choice])


def expected(request: Request, choice: int, max_context: int) -> list[int]:
    """The answer that any schedule must give."""
    tokens: list[int] = []
    while len(tokens) < request.sampling.max_tokens:
        tokens.append(next_token(request.prompt_token_ids, choice, tokens))
        if tokens[-1] == EOS or len(request.prompt_token_ids) + len(tokens) >= max_context:
            break
        if tokens[-1] == STOP and request.sampling.stop:
            break
    return tokens


def make(num_pages: int = 12, page_size: int = 4, **limits: Any) -> Scheduler:
    settings = {"max_step_tokens": 16, "max_running": 6, "max_waiting": 50} | limits
    config = SchedulerConfig(
        num_pages=num_pages, page_size=page_size, max_context_tokens=40, **settings
    )
    return Scheduler(config, frozenset([EOS]), b"weights")


def request(
    rid: str,
    prompt: list[int],
    max_tokens: int = 8,
    n: int = 1,
    stop: tuple[str, ...] = (),
    **more: Any,
) -> Request:
    params = SamplingParams(max_tokens=max_tokens, stop=stop)
    return Request(id=rid, prompt_token_ids=prompt, sampling=params, n=n, **more)


def live(
    machine: Machine,
    rng: random.Random,
    num_steps: int,
    tenants: Sequence[tuple[str, int]] = (("", 1),),
) -> None:
    """A random life: requests of all kinds, some resumed, some aborted; books after every step.

    `tenants`: with their weights.
    """
    scheduler = machine.scheduler
    alive: dict[str, Request] = {}
    got: dict[tuple[str, int], list[int]] = {}
    waited: dict[str, int] = {}
    num_counted = 0  # tokens, by the usage of all that ended
    stems = [[rng.randrange(40) for _ in range(20)] for _ in range(3)]
    for step in range(num_steps):
        if rng.random() < 0.3 and len(alive) < 20:
            stem = rng.choice(stems)[: rng.randrange(1, 20)]
            tenant, weight = rng.choice(tenants) if len(tenants) > 1 else tenants[0]
            prompt = stem + [rng.randrange(40) for _ in range(rng.randrange(0, 6))]
            new = request(
                f"r{step}",
                prompt,
                max_tokens=rng.randrange(1, 14),
                n=rng.choice([1, 1, 1, 2, 3]),
                stop=rng.choice([(), ("eleven",)]),
                cache_salt=rng.choice(["a", "b"]),
                priority=rng.choice(["interactive", "interactive", "background"]),
                tenant=tenant,
                weight=weight,
            )
            if rng.random() < 0.2:  # as after an engine restart
                full = [expected(new, c, scheduler.max_context) for c in range(new.n)]
                cut = tuple(tuple(t[: rng.randrange(len(t))]) for t in full)
                new = msgspec.structs.replace(new, resumed=cut, resumed_cached_tokens=0)
            scheduler.add(new)
            alive[new.id], waited[new.id] = new, 0
            for c in range(new.n):
                got[new.id, c] = list(new.resumed[c]) if new.resumed else []
        events = machine.step()
        if alive and rng.random() < 0.05:
            events += scheduler.abort(rng.choice(list(alive)))
        for event in events:
            sofar = got[event.request_id, event.choice]
            sofar += event.token_ids
            whole = expected(alive[event.request_id], event.choice, scheduler.max_context)
            assert sofar == whole[: len(sofar)], "a schedule changed somebody's tokens"
            if event.finish_reason in ("stop", "length"):
                assert sofar == whole
            if event.usage is not None:
                done = alive.pop(event.request_id)
                counted = sum(len(got[done.id, c]) for c in range(done.n))
                assert event.usage.completion_tokens == counted
                assert event.usage.prompt_tokens == len(done.prompt_token_ids)
                assert 0 <= event.usage.cached_tokens < len(done.prompt_token_ids)
                was_drawn = done.id in machine.drawn or done.resumed_cached_tokens is not None
                assert event.usage.prefilled == was_drawn
                num_counted += counted - sum(map(len, done.resumed))
        for rid in alive:
            waited[rid] += 1
            assert waited[rid] < 1500, f"{rid} starved"
        scheduler.check()
    while alive:
        for event in machine.step():
            if event.usage is not None:
                done = alive.pop(event.request_id)
                num_counted += event.usage.completion_tokens - sum(map(len, done.resumed))
        scheduler.check()
    assert scheduler.memory.pool.num_used == 0
    assert scheduler.stats().generated_tokens == num_counted
