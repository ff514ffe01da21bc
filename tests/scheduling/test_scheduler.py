"""The scheduler against a scripted machine: conservation, fairness, budgets and replay."""

from __future__ import annotations

import random

import pytest

from tests.scheduling.machine import Machine, live, make, next_token, request
from tribody.core.errors import BadRequest, Overloaded
from tribody.core.request import SampledToken, StepResult


def run_random(seed: int, num_steps: int) -> list[tuple[object, ...]]:
    """The trace of a random life."""
    rng = random.Random(seed)
    scheduler = make(num_pages=rng.choice([10, 13, 30]), max_step_tokens=rng.choice([6, 16, 64]))
    machine = Machine(scheduler)
    live(machine, rng, num_steps)
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
    first, second = scheduler.apply(plan, result, {})
    assert (first.finish_reason, second.finish_reason) == (None, "error")
    scheduler.check()


def test_background_waits_behind_whoever_comes() -> None:
    """Interactive requests are admitted first, whenever they came; each kind in its order."""
    scheduler = make(num_pages=40, max_running=2, max_step_tokens=64, background_running=8)
    machine = Machine(scheduler)
    for rid in ("b1", "b2", "b3"):
        scheduler.add(request(rid, [1, 2, 3], 12, priority="background"))
    machine.step()
    for rid in ("i1", "i2"):
        scheduler.add(request(rid, [4, 5, 6], 12))
    machine.step()
    assert [s.job.request.id for s in scheduler.running] == ["i1", "i2"]
    assert [s.job.request.id for s in scheduler.waiting] == ["b1", "b2", "b3"]
    scheduler.check()
    ended = []
    while scheduler.num_unfinished:
        ended += [e.request_id for e in machine.step() if e.usage]
        scheduler.check()
    assert set(ended[:2]) == {"i1", "i2"}
    assert set(ended) == {"i1", "i2", "b1", "b2", "b3"}


def test_background_runs_only_where_few_run() -> None:
    scheduler = make(num_pages=40, max_step_tokens=64, background_running=2)
    machine = Machine(scheduler)
    for i in range(4):
        scheduler.add(request(f"b{i}", [1, 2, 3], 12, priority="background"))
    machine.step()
    assert [s.job.request.id for s in scheduler.running] == ["b0", "b1"]
    for i in range(2):
        scheduler.add(request(f"i{i}", [1, 2, 3], 12))
    machine.step()
    running = [s.job.request.id for s in scheduler.running]
    assert running == ["i0", "i1", "b0", "b1"], "there was room for all: nobody is preempted"


def test_background_gives_its_pages_to_whoever_comes() -> None:
    scheduler = make(num_pages=8, max_step_tokens=64)
    machine = Machine(scheduler)
    scheduler.add(request("b", list(range(20)), 8, priority="background"))
    machine.step()
    scheduler.add(request("i", list(range(20, 36)), 4))
    machine.step()
    assert [s.job.request.id for s in scheduler.running] == ["i"]
    assert scheduler.stats().preemptions == 1
    while scheduler.num_unfinished:
        machine.step()
        scheduler.check()
