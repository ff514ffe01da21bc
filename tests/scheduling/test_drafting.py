"""Drafts in the scheduler: answers, usage and pages are those of a run without them."""

from __future__ import annotations

import random

import pytest

from tests.scheduling.machine import (
    EOS,
    STOP,
    Guess,
    Machine,
    expected,
    live,
    make,
    next_token,
    request,
)
from tests.scheduling.policies import Eager, Fickle
from tribody.core.request import Event, SampledToken, SamplingParams, StepPlan, StepResult
from tribody.scheduling.scheduler import Scheduler


def right(prompt: list[int], choice: int, generated: list[int]) -> list[int]:
    guesses: list[int] = []
    for _ in range(4):
        guesses.append(next_token(prompt, choice, generated + guesses))
    return guesses


def wrong(prompt: list[int], choice: int, generated: list[int]) -> list[int]:
    return [(token + 1) % 40 for token in right(prompt, choice, generated)]


def right_at_first(prompt: list[int], choice: int, generated: list[int]) -> list[int]:
    """So many right ones as the last token says, then wrong ones."""
    count = generated[-1] % 4
    return right(prompt, choice, generated)[:count] + wrong(prompt, choice, generated)[count:]


GUESSES: dict[str, Guess] = {"right": right, "wrong": wrong, "mixed": right_at_first}


def drafting(num_pages: int = 12, max_drafts: int = 4, **limits: int) -> Scheduler:
    """A scheduler that takes every draft of the machine's drafter."""
    scheduler = make(num_pages, draft_sources=("mtp",), max_drafts=max_drafts, **limits)
    scheduler.drafts.policy = Eager(("mtp",), max_drafts)
    return scheduler


def run(scheduler: Scheduler, machine: Machine) -> list[Event]:
    events = []
    while scheduler.num_unfinished:
        events += machine.step()
        scheduler.check()
    return events


def random_life(seed: int, guess: str) -> tuple[Machine, list[tuple[object, ...]]]:
    rng = random.Random(seed)
    scheduler = make(
        num_pages=rng.choice([10, 13, 30]),
        max_step_tokens=rng.choice([6, 16, 64]),
        draft_sources=rng.choice([("mtp",), ("mtp", "ngram")]),
        max_drafts=4,
    )
    scheduler.drafts.policy = Fickle(scheduler.config.draft_sources, 4, seed)
    machine = Machine(scheduler, GUESSES[guess])
    live(machine, rng, 1000)
    return machine, machine.trace


@pytest.mark.parametrize("guess", list(GUESSES))
@pytest.mark.parametrize("seed", range(6))
def test_random_drafts_change_nothing(seed: int, guess: str) -> None:
    """`live` compares every token, finish and usage; pages are checked after every step."""
    machine, trace = random_life(seed, guess)
    stats = machine.scheduler.stats()
    assert stats.drafted_tokens > 150
    if guess == "right":
        assert stats.accepted_tokens > 100
    assert trace == random_life(seed, guess)[1], "a replay decides otherwise"


def test_right_drafts_save_steps_and_are_counted_once() -> None:
    scheduler = drafting(max_drafts=3)
    machine = Machine(scheduler, right)
    new = request("a", [1, 2, 3], max_tokens=9)
    assert EOS not in expected(new, 0, 40)
    scheduler.add(new)
    events = run(scheduler, machine)
    assert [len(e.token_ids) for e in events] == [1, 4, 4]
    assert events[-1].finish_reason == "length"
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 9
    stats = scheduler.stats()
    assert (stats.drafted_tokens, stats.accepted_tokens) == (6, 6)
    assert stats.generated_tokens == 9


def test_wrong_drafts_leave_no_page_behind() -> None:
    """The pages that a step took for drafts alone are free again after it."""
    plain, other = make(), drafting()
    machines = [Machine(plain), Machine(other, wrong)]
    for scheduler in (plain, other):
        scheduler.add(request("a", list(range(20, 33)), max_tokens=9))
    while plain.num_unfinished:
        events = [machine.step() for machine in machines]
        assert [e.token_ids for e in events[0]] == [e.token_ids for e in events[1]]
        assert plain.memory.pool.num_free == other.memory.pool.num_free
        assert plain.memory.pool.num_cached == other.memory.pool.num_cached
    assert other.stats().drafted_tokens > 20


def test_drafts_take_free_pages_only() -> None:
    """A pool of four pages: two hold a finished prompt, cached; drafts must not evict them."""
    scheduler = drafting(num_pages=4)
    machine = Machine(scheduler, right)
    scheduler.add(request("old", list(range(20, 29)), max_tokens=1))
    run(scheduler, machine)
    assert scheduler.memory.pool.num_cached == 2
    scheduler.add(request("new", list(range(10, 15)), max_tokens=12))
    cached = [2]
    while scheduler.num_unfinished:
        before = scheduler.memory.pool.num_cached
        plan = scheduler.plan()
        assert plan is not None
        chunk = plan.chunks[0]
        own_end = chunk.start + len(chunk.token_ids) - chunk.num_drafts
        needed = -(-own_end // 4)
        if len(chunk.page_table) > needed:
            assert scheduler.memory.pool.num_cached == before, "a draft evicted a cached page"
        cached.append(scheduler.memory.pool.num_cached)
        result = StepResult(plan.step_id, machine_tokens(machine, plan))
        result.drafts[chunk.sequence_id] = follow_up(plan, result)
        scheduler.apply(plan, result, {})
        scheduler.check()
    assert min(cached) < 2, "tokens themselves may evict"


def machine_tokens(machine: Machine, plan: StepPlan) -> list[SampledToken]:
    for chunk in plan.chunks:
        for i, token in enumerate(chunk.token_ids):
            page = chunk.page_table[(chunk.start + i) // machine.size]
            machine.pages.setdefault(page, {})[(chunk.start + i) % machine.size] = token
    return [token for chunk in plan.chunks for token in machine.draw(chunk)]


def follow_up(plan: StepPlan, result: StepResult) -> list[int]:
    slot = plan.chunks[0].samples[0]
    tokens = [token.token_id for token in result.tokens if not token.skipped]
    return right(slot.prompt_token_ids, 0, slot.generated + tokens)


def test_drafts_take_what_the_step_leaves_over() -> None:
    """A prompt in the queue gets the whole budget; the sequence that decodes waits for nobody."""
    scheduler = drafting(num_pages=40, max_step_tokens=8)
    machine = Machine(scheduler, right)
    scheduler.add(request("a", [1, 2], max_tokens=12))
    machine.step()
    scheduler.add(request("b", list(range(20, 32)), max_tokens=1))
    machine.step()
    assert machine.trace[-1] == (8, (1, 7))
    machine.step()
    assert machine.trace[-1] == (8, (3, 5)), "2 of 4 drafts fit behind the rest of the prompt"


@pytest.mark.parametrize("length", range(2, 10))
def test_max_tokens_and_the_context_cap_drafts(length: int) -> None:
    scheduler = drafting(num_pages=40)
    machine = Machine(scheduler, right)
    prompt = list(range(20, 33))
    scheduler.add(request("a", prompt, max_tokens=length))
    long = list(range(1, 40 - length))
    scheduler.add(request("b", long, max_tokens=100))
    events = run(scheduler, machine)
    for rid, text in (("a", prompt), ("b", long)):
        got = [t for e in events if e.request_id == rid for t in e.token_ids]
        wanted = request(rid, text, max_tokens=length if rid == "a" else 100)
        assert got == expected(wanted, 0, 40)
    assert scheduler.stats().drafted_tokens >= scheduler.stats().accepted_tokens


def ends_with(token: int, length: int) -> list[int]:
    """A prompt whose answer has `token` for the first time at place `length`."""
    for first in range(10_000):
        prompt = [first, first + 1]
        answer: list[int] = []
        while len(answer) <= length:
            answer.append(next_token(prompt, 0, answer))
        if answer.index(token) == length if token in answer else False:
            return prompt
    raise AssertionError("no such prompt")


@pytest.mark.parametrize("place", [2, 3, 4])
@pytest.mark.parametrize("kind", ["eos", "stop token", "stop string"])
def test_an_end_inside_an_accepted_run_cuts_the_rest(kind: str, place: int) -> None:
    token = {"eos": EOS, "stop token": 23, "stop string": STOP}[kind]
    scheduler = drafting(num_pages=40)
    machine = Machine(scheduler, right)
    new = request("a", ends_with(token, place), max_tokens=30)
    params = SamplingParams(
        max_tokens=30,
        stop=("eleven",) if kind == "stop string" else (),
        stop_token_ids=(23,) if kind == "stop token" else (),
    )
    new = type(new)(id="a", prompt_token_ids=new.prompt_token_ids, sampling=params)
    scheduler.add(new)
    events = run(scheduler, machine)
    tokens = [t for e in events for t in e.token_ids]
    assert len(tokens) == place + 1
    assert tokens[-1] == token
    assert events[-1].finish_reason == "stop"
    assert events[-1].ended_by_token == (kind != "stop string")
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == place + 1
    assert scheduler.stats().accepted_tokens == place - 1
    assert scheduler.memory.pool.num_used == 0


def test_pages_are_cached_up_to_the_accepted_tokens() -> None:
    """A second prompt that goes on as the first was answered finds what was accepted, no more."""
    scheduler = drafting(num_pages=40)
    machine = Machine(scheduler, right_at_first)
    new = request("a", list(range(20, 26)), max_tokens=20)
    scheduler.add(new)
    run(scheduler, machine)
    whole = new.prompt_token_ids + expected(new, 0, 40)
    kept = scheduler.memory.pool.num_cached
    assert kept == (len(whole) - 1) // 4, "every full page but that of the last token"
    scheduler.add(request("b", [*whole, 5, 5, 5, 5], max_tokens=1))
    (event,) = [e for e in run(scheduler, machine) if e.usage]
    assert event.usage is not None
    assert event.usage.cached_tokens == 4 * kept


def test_an_error_behind_a_right_draft_ends_the_choice_after_its_tokens() -> None:
    scheduler = drafting()
    machine = Machine(scheduler, right)
    scheduler.add(request("a", [1, 2, 3], max_tokens=20))
    machine.step()
    plan = scheduler.plan()
    assert plan is not None
    (chunk,) = plan.chunks
    assert chunk.num_drafts == 4
    sid, drafts = chunk.sequence_id, chunk.token_ids[1:]
    tokens = [SampledToken(sid, drafts[0]), SampledToken(sid, -1, error="not numbers")]
    tokens += [SampledToken(sid, -2, skipped=True) for _ in range(3)]
    first, last = scheduler.apply(plan, StepResult(plan.step_id, tokens), {})
    assert (first.token_ids, first.finish_reason) == (drafts[:1], None)
    assert (last.token_ids, last.finish_reason, last.error) == ([], "error", "not numbers")
    assert last.usage is not None
    assert last.usage.completion_tokens == 2
    scheduler.check()
