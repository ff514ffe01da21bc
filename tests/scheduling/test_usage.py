"""What a request is said to have used when it is cut short, at every stage of its life."""

from __future__ import annotations

import pytest

from tests.scheduling.machine import Machine, expected, make, next_token, request
from tests.scheduling.policies import Eager
from tribody.core.request import Request, SampledToken, SamplingParams, StepPlan, StepResult, Usage
from tribody.scheduling import drafting
from tribody.scheduling.scheduler import Scheduler

PROMPT = list(range(10, 30))


def cut(scheduler: Scheduler, rid: str = "a", error: str | None = None) -> Usage:
    """Its usage after it was aborted, or ended with an error."""
    events = scheduler.abort(rid) if error is None else scheduler.fail(rid, error)
    assert {e.finish_reason for e in events} == {"abort" if error is None else "error"}
    assert [e.usage is None for e in events] == [True] * (len(events) - 1) + [False]
    scheduler.check()
    usage = events[-1].usage
    assert usage is not None
    return usage


def used(completion_tokens: int, *, cached_tokens: int = 0, prefilled: bool = True) -> Usage:
    return Usage(
        prompt_tokens=len(PROMPT),
        cached_tokens=cached_tokens,
        completion_tokens=completion_tokens,
        prefilled=prefilled,
    )


@pytest.mark.parametrize("error", [None, "broken"])
def test_in_the_queue_nothing_was_prefilled(error: str | None) -> None:
    scheduler = make(max_running=1)
    scheduler.add(request("first", PROMPT))
    scheduler.add(request("a", PROMPT))
    Machine(scheduler).step()
    assert cut(scheduler, error=error) == used(0, prefilled=False)


@pytest.mark.parametrize("error", [None, "broken"])
def test_held_back_nothing_was_prefilled(error: str | None) -> None:
    scheduler = make()
    scheduler.add(request("a", PROMPT), held=True)
    assert cut(scheduler, error=error) == used(0, prefilled=False)


def test_a_prompt_counts_from_the_step_that_ends_it() -> None:
    """Three chunks; the cache hit is told also where nothing counts."""
    for num_steps, usage in [(1, used(0, prefilled=False)), (2, used(0, prefilled=False)),
                             (3, used(1)), (4, used(2))]:  # fmt: skip
        scheduler = make(max_step_tokens=8)
        machine = Machine(scheduler)
        scheduler.add(request("a", PROMPT))
        for _ in range(num_steps):
            machine.step()
        assert cut(scheduler) == usage


def test_a_step_that_fails_counts_what_the_steps_before_it_brought() -> None:
    scheduler = make(max_step_tokens=16)
    machine = Machine(scheduler)
    scheduler.add(request("a", PROMPT, n=2))
    for _ in range(3):
        machine.step()
    scheduler.add(request("b", PROMPT))
    scheduler.plan()
    events = scheduler.fail_all("the machine is on strike")
    assert [e.request_id for e in events] == ["a", "a", "b"]
    assert events[0].usage is None
    assert events[1].usage == used(4)
    # Its hit was looked up, for a step that never was.
    assert events[2].usage == used(0, cached_tokens=16, prefilled=False)


def test_choices_are_summed_those_that_had_ended_too() -> None:
    scheduler = make(num_pages=30)
    machine = Machine(scheduler)
    wanted = request("a", [3, 3, 1], 12, n=3)
    lengths = sorted(len(expected(wanted, c, scheduler.max_context)) for c in range(3))
    assert lengths[0] < lengths[1]
    scheduler.add(wanted)
    for _ in range(lengths[0] + 1):
        machine.step()
    usage = cut(scheduler)
    assert usage.completion_tokens == lengths[0] + 2 * (lengths[0] + 1)
    assert scheduler.stats().generated_tokens == usage.completion_tokens


def test_drafts_count_only_where_they_became_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "Speculation", Eager)
    scheduler = make(num_pages=30, draft_sources=("mtp",), max_drafts=3)
    right = iter([1, 0, 1, 1, 0, 1, 0, 0, 1] * 9)

    def guess(prompt: list[int], choice: int, generated: list[int]) -> list[int]:
        known, guesses = list(generated), []
        for _ in range(3):
            guesses.append(next_token(prompt, choice, known) if next(right) else 39)
            known.append(guesses[-1])
        return guesses

    machine = Machine(scheduler, guess)
    scheduler.add(request("a", [2, 2, 1], 30))
    told = sum(len(e.token_ids) for _ in range(5) for e in machine.step())
    assert scheduler.stats().accepted_tokens > 0
    assert scheduler.stats().drafted_tokens > scheduler.stats().accepted_tokens
    assert scheduler.num_unfinished == 1
    assert cut(scheduler).completion_tokens == told == scheduler.stats().generated_tokens


def test_a_preempted_request_keeps_what_it_has_used() -> None:
    scheduler = make(num_pages=8, max_step_tokens=64)
    machine = Machine(scheduler)
    scheduler.add(request("a", PROMPT, 8, priority="background"))
    machine.step()
    scheduler.add(request("i", list(range(20, 36)), 4))
    machine.step()
    assert [s.job.request.id for s in scheduler.waiting] == ["a"]
    assert cut(scheduler) == used(scheduler.stats().generated_tokens - 1)


def test_a_resumed_request_had_been_prefilled() -> None:
    for resumed, cached, prefilled in [((), None, False), (((),), 4, True), (((5, 6),), 4, True)]:
        scheduler = make()
        wanted = request("a", PROMPT, resumed=resumed, resumed_cached_tokens=cached)
        scheduler.add(wanted)
        generated = sum(map(len, resumed))
        assert cut(scheduler) == used(generated, cached_tokens=cached or 0, prefilled=prefilled)


def test_an_embedding_counts_once_it_is_made() -> None:
    def embed(num_steps: int) -> tuple[Scheduler, list[Usage | None]]:
        scheduler = make(max_step_tokens=8)
        sampling = SamplingParams(max_tokens=0)
        scheduler.add(Request(id="a", prompt_token_ids=PROMPT, sampling=sampling, pooling="mean"))
        usages: list[Usage | None] = []
        for _ in range(num_steps):
            plan = scheduler.plan()
            assert plan is not None
            sums = {chunk.sequence_id: b"\0" * 4 for chunk in plan.chunks}
            events = scheduler.apply(plan, StepResult(plan.step_id, [], hidden_sums=sums), {})
            usages += [e.usage for e in events]
        return scheduler, usages

    scheduler, usages = embed(2)
    assert usages == []
    assert cut(scheduler) == used(0, prefilled=False)
    assert embed(3)[1] == [used(0)]


def test_logits_that_are_not_numbers_end_with_a_usage() -> None:
    """In the first token: the prompt was computed."""
    scheduler = make(max_step_tokens=64)

    def broken(plan: StepPlan | None) -> StepResult:
        assert plan is not None
        slots = [slot for chunk in plan.chunks for slot in chunk.samples]
        tokens = [SampledToken(s.sequence_id, -1, error="not numbers") for s in slots]
        return StepResult(plan.step_id, tokens)

    scheduler.add(request("a", PROMPT, n=2))
    plan = scheduler.plan()
    assert plan is not None
    first, last = scheduler.apply(plan, broken(plan), {})
    assert (first.finish_reason, first.usage) == ("error", None)
    assert (last.finish_reason, last.usage) == ("error", used(0))
    scheduler.add(request("b", PROMPT, cache_salt="other"))
    Machine(scheduler).step()
    plan = scheduler.plan()
    assert plan is not None
    (last,) = scheduler.apply(plan, broken(plan), {})
    assert (last.error, last.usage) == ("not numbers", used(1))
    scheduler.check()
