"""The scheduler against a scripted machine: conservation, fairness, budgets and replay.

The machine is a pure function: the token after a known sequence is a hash of (prompt, choice,
generated so far), so any schedule must give every request the same tokens.
"""

from __future__ import annotations

import hashlib
import random

import pytest

from tribody.core.config import SchedulerConfig
from tribody.core.errors import BadRequest, Overloaded
from tribody.core.request import (
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


def next_token(prompt: list[int], choice: int, generated: list[int]) -> int:
    text = repr((prompt, choice, generated)).encode()
    return hashlib.blake2b(text, digest_size=2).digest()[0] % 40


class Machine:
    """Runs plans and holds them to their word: every page is written before it is read."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.size = scheduler.config.page_size
        self.pages: dict[int, dict[int, int]] = {}  # page -> offset -> token written there
        self.trace: list[tuple[object, ...]] = []

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
        tokens = [self.sample(plan, slot) for c in plan.chunks for slot in c.samples]
        self.trace.append((plan.num_tokens, tuple(len(c.token_ids) for c in plan.chunks)))
        return self.scheduler.apply(plan, StepResult(plan.step_id, tokens), frozenset())

    def sample(self, plan: StepPlan, slot: SampleSlot) -> SampledToken:
        chunk = next(c for c in plan.chunks if c.sequence_id == slot.sequence_id)
        known = slot.prompt_token_ids + slot.generated
        assert chunk.start + len(chunk.token_ids) == len(known)
        for position, token in enumerate(known):  # the cache holds exactly this sequence
            page = chunk.page_table[position // self.size]
            assert self.pages[page][position % self.size] == token
        token = next_token(slot.prompt_token_ids, slot.choice, slot.generated)
        return SampledToken(slot.sequence_id, token)


def expected(request: Request, choice: int, max_context: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < request.sampling.max_tokens:
        tokens.append(next_token(request.prompt_token_ids, choice, tokens))
        if tokens[-1] == EOS or len(request.prompt_token_ids) + len(tokens) >= max_context:
            break
    return tokens


def make(num_pages: int = 12, page_size: int = 4, **limits: int) -> Scheduler:
    settings = {"max_step_tokens": 16, "max_running": 6, "max_waiting": 50} | limits
    config = SchedulerConfig(
        num_pages=num_pages, page_size=page_size, max_context_tokens=40, **settings
    )
    return Scheduler(config, frozenset([EOS]), b"weights")


def request(
    rid: str, prompt: list[int], max_tokens: int = 8, n: int = 1, **more: object
) -> Request:
    params = SamplingParams(max_tokens=max_tokens)
    return Request(id=rid, prompt_token_ids=prompt, sampling=params, n=n, **more)  # type: ignore[arg-type]


def run_random(seed: int, num_steps: int) -> list[tuple[object, ...]]:
    """A random life of a scheduler; returns the machine's trace."""
    rng = random.Random(seed)
    scheduler = make(num_pages=rng.choice([10, 13, 30]), max_step_tokens=rng.choice([6, 16, 64]))
    machine = Machine(scheduler)
    alive: dict[str, Request] = {}
    got: dict[tuple[str, int], list[int]] = {}
    waited: dict[str, int] = {}
    stems = [[rng.randrange(40) for _ in range(20)] for _ in range(3)]
    for step in range(num_steps):
        if rng.random() < 0.3 and len(alive) < 20:
            stem = rng.choice(stems)[: rng.randrange(1, 20)]
            prompt = stem + [rng.randrange(40) for _ in range(rng.randrange(0, 6))]
            new = request(
                f"r{step}",
                prompt,
                max_tokens=rng.randrange(1, 14),
                n=rng.choice([1, 1, 1, 2, 3]),
                cache_salt=rng.choice(["a", "b"]),
            )
            if rng.random() < 0.2:  # as after an engine restart
                full = [expected(new, c, scheduler.max_context) for c in range(new.n)]
                cut = tuple(tuple(t[: rng.randrange(len(t))]) for t in full)
                new = request(
                    new.id, prompt, new.sampling.max_tokens, new.n, resumed=cut,
                    cache_salt=new.cache_salt, resumed_cached_tokens=0,
                )  # fmt: skip
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
        for rid in alive:
            waited[rid] += 1
            assert waited[rid] < 1500, f"{rid} starved"
        scheduler.check()
    while alive:
        for event in machine.step():
            if event.usage is not None:
                alive.pop(event.request_id)
        scheduler.check()
    assert scheduler.memory.pool.num_used == 0
    return machine.trace


@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_random_steps(seed: int) -> None:
    """No leaked page, no starved request, every plan inside its budget, replay identical."""
    trace = run_random(seed, 1000)
    assert trace == run_random(seed, 1000)


def test_first_token_only_after_the_whole_prompt() -> None:
    scheduler = make(max_step_tokens=6)
    machine = Machine(scheduler)
    scheduler.add(request("a", list(range(20, 35))))
    assert [machine.step() for _ in range(2)] == [[], []]
    (event,) = machine.step()
    assert event.token_ids == [next_token(list(range(20, 35)), 0, [])]
    assert event.cached_tokens == 0


def test_decodes_come_before_prompts() -> None:
    scheduler = make(num_pages=40, max_step_tokens=6)
    machine = Machine(scheduler)
    scheduler.add(request("a", [1, 2]))
    machine.step()
    scheduler.add(request("b", list(range(20, 38))))
    machine.step()
    assert machine.trace[-1] == (6, (1, 5))


def test_a_second_identical_prompt_hits_its_full_pages() -> None:
    scheduler = make()
    machine = Machine(scheduler)
    usages = []
    for rid in ("a", "b", "other tenant"):
        scheduler.add(request(rid, list(range(10, 23)), 2, cache_salt=rid[:5].strip("ab")))
        while scheduler.num_unfinished:
            usages += [e.usage for e in machine.step() if e.usage]
    assert [u.cached_tokens for u in usages] == [0, 12, 0]


def test_forked_choices_share_the_prompt_and_copy_the_open_page() -> None:
    scheduler = make()
    machine = Machine(scheduler)
    scheduler.add(request("a", list(range(10, 16)), 3, n=3))
    machine.step()
    assert scheduler.memory.pool.num_used == 2
    plan = scheduler.plan()
    assert plan is not None
    assert len(plan.page_copies) == 2, "the last holder writes in place"


def test_refusals_name_the_limit() -> None:
    scheduler = make(max_waiting=1)
    for bad, word in [
        (request("a", []), "no tokens"),
        (request("a", [1] * 40), "context is 40"),
        (request("a", [1], max_tokens=0), "max_tokens"),
        (request("a", [1], n=7), "1 to 6"),
    ]:
        with pytest.raises(BadRequest, match=word):
            scheduler.add(bad)
    scheduler.add(request("a", [1]))
    with pytest.raises(Overloaded, match="1 requests are waiting"):
        scheduler.add(request("b", [1]))
    with pytest.raises(BadRequest, match="already in use"):
        scheduler.add(request("a", [1]))


def test_abort_frees_everything_and_reports_each_choice_once() -> None:
    scheduler = make()
    machine = Machine(scheduler)
    scheduler.add(request("a", list(range(10, 20)), 20, n=2))
    machine.step()
    events = scheduler.abort("a")
    assert [e.finish_reason for e in events] == ["abort", "abort"]
    assert [e.usage is not None for e in events] == [False, True]
    assert scheduler.abort("a") == []
    scheduler.check()


def test_an_error_in_one_row_ends_that_choice_alone() -> None:
    scheduler = make()
    scheduler.add(request("a", [1, 2, 3], n=2))
    plan = scheduler.plan()
    assert plan is not None
    sid = plan.chunks[0].sequence_id
    result = StepResult(1, [SampledToken(sid, 5), SampledToken(sid, -1, error="not numbers")])
    first, second = scheduler.apply(plan, result, frozenset())
    assert (first.finish_reason, second.finish_reason) == (None, "error")
    scheduler.check()
