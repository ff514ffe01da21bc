"""Shares of tenants that wait, by simulated floods; one tenant alone is served as it comes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.scheduling.machine import EOS, Machine, live, make, request
from tribody.core.config import SchedulerConfig
from tribody.core.errors import BadRequest
from tribody.core.request import Event, Request, SampledToken, SamplingParams, StepResult
from tribody.scheduling import fairness
from tribody.scheduling.scheduler import Scheduler
from tribody.scheduling.sequence import Sequence


def scheduler_for(max_running: int, num_pages: int = 4000) -> Scheduler:
    """Of prompts that fit in a step."""
    config = SchedulerConfig(
        num_pages=num_pages,
        page_size=8,
        max_context_tokens=4000,
        max_step_tokens=4000,
        max_running=max_running,
        max_waiting=5000,
    )
    return Scheduler(config, frozenset([EOS]), b"w")


class Flood:
    """Requests of given prompt and completion, whatever they ask for, and what they were given."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.lengths: dict[str, int] = {}
        self.tenants: dict[str, str] = {}
        self.served: Counter[str] = Counter()  # tokens, by tenant
        self.begun: list[str] = []  # request ids, as they were first given a token

    def add(
        self, tenant: str, prompt: int, completion: int, *, asked: int | None = None, **more: object
    ) -> str:
        rid = f"{tenant}{len(self.lengths)}"
        params = SamplingParams(max_tokens=asked or completion)
        self.scheduler.add(
            Request(
                id=rid,
                prompt_token_ids=[len(self.lengths) % 997 + 10] * prompt,
                sampling=params,
                tenant=tenant,
                **more,  # type: ignore[arg-type]
            )
        )
        self.lengths[rid], self.tenants[rid] = completion, tenant
        return rid

    def step(self) -> list[Event]:
        plan = self.scheduler.plan()
        if plan is None:
            return []
        slots = [slot for chunk in plan.chunks for slot in chunk.samples]
        result = StepResult(plan.step_id, [])
        for slot in slots:
            ends = slot.position + 1 == self.lengths[slot.request_id]
            result.tokens.append(SampledToken(slot.sequence_id, EOS if ends else 1))
        events = self.scheduler.apply(plan, result, {})
        for event in events:
            tenant = self.tenants[event.request_id]
            if event.cached_tokens is not None and event.token_ids:
                self.begun.append(event.request_id)
                slot = next(s for s in slots if s.request_id == event.request_id)
                self.served[tenant] += len(slot.prompt_token_ids)
            self.served[tenant] += len(event.token_ids)
        if plan.step_id % 16 == 0 or not self.scheduler.num_unfinished:
            self.scheduler.check()
        return events


sizes = st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(1, 20))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(sizes, min_size=1, max_size=4),
    st.lists(sizes, min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 6),
)
def test_shares_are_as_the_weights(
    sizes_a: list[tuple[int, int, int]],
    sizes_b: list[tuple[int, int, int]],
    weight_a: int,
    weight_b: int,
    max_running: int,
) -> None:
    """Both always have some waiting: what they were given, over their weights, differs by one
    request at most where one runs at a time, else by what can be in service, as asked for (a
    multiple of what it takes), and one request more."""
    flood = Flood(scheduler_for(max_running))
    given = {"a": (sizes_a, weight_a), "b": (sizes_b, weight_b)}
    num_added: Counter[str] = Counter()
    num_ended: Counter[str] = Counter()
    largest = [max(p + c for p, c, _ in sizes) / weight for sizes, weight in given.values()]
    asked_for = [max(p + c * f for p, c, f in sizes) / weight for sizes, weight in given.values()]
    bound = max(largest) if max_running == 1 else (max_running + 1) * sum(asked_for)
    for _ in range(200):
        for tenant, (each, weight) in given.items():
            while num_added[tenant] < num_ended[tenant] + max_running + 3:
                prompt, completion, factor = each[num_added[tenant] % len(each)]
                asked = completion * factor
                flood.add(tenant, prompt, completion, asked=asked, weight=weight)
                num_added[tenant] += 1
        for event in flood.step():
            num_ended[flood.tenants[event.request_id]] += event.usage is not None
        shares = [flood.served[tenant] / weight for tenant, (_, weight) in given.items()]
        assert abs(shares[0] - shares[1]) <= bound


@pytest.mark.parametrize("asked", [40, 4000 - 100])
def test_one_request_waits_for_no_flood(asked: int) -> None:
    """It begins as soon as one of those in service ends, and so does the next one."""
    flood = Flood(scheduler_for(4))
    for i in range(1000):
        flood.add("flood", 20, 30 + i % 7, asked=asked)
    for _ in range(100):
        flood.step()
    for _ in range(3):
        single = flood.add("single", 20, 5, asked=asked)
        begun = len(flood.begun)
        while single not in flood.begun:
            flood.step()
        assert flood.begun[begun] == single
        while all(event.request_id != single or event.usage is None for event in flood.step()):
            pass
    assert len(flood.begun) < 40


def test_what_is_asked_for_and_not_used_costs_nothing() -> None:
    """One tenant leaves max_tokens at its highest, the other knows how long its answers are."""
    flood = Flood(scheduler_for(8))
    for _ in range(400):
        flood.add("careless", 20, 10, asked=3900)
        flood.add("careful", 20, 10, asked=10)
    for _ in range(200):
        flood.step()
    careless, careful = flood.served["careless"], flood.served["careful"]
    assert careful > 2000
    assert careless == pytest.approx(careful, rel=0.15)


def test_long_answers_are_charged_as_they_grow() -> None:
    """One tenant's become long all of a sudden: it does not take all places before they end."""
    flood = Flood(scheduler_for(16))
    for _ in range(30):
        flood.add("turns", 10, 10, asked=3000)
    for _ in range(1000):
        flood.add("steady", 10, 10, asked=3000)
    for _ in range(20):
        flood.step()
    for _ in range(100):
        flood.add("turns", 10, 2000, asked=3000)
    before = flood.served.copy()
    for _ in range(400):
        flood.step()
    gained = flood.served - before
    assert gained["steady"] > gained["turns"] / 2


def test_who_was_away_is_not_repaid() -> None:
    """After a tenant had all to itself for long, another that comes gets its share, not more."""
    flood = Flood(scheduler_for(4))
    flood.add("late", 10, 10)
    for _ in range(2000):
        flood.add("early", 10, 10)
    for _ in range(500):
        flood.step()
    for _ in range(500):
        flood.add("late", 10, 10)
    before = flood.served.copy()
    for _ in range(200):
        flood.step()
    gained = flood.served - before
    assert gained["late"] == pytest.approx(gained["early"], rel=0.1)


def waiting(scheduler: Scheduler) -> list[str]:
    """As they would be admitted."""
    found: list[str] = []
    queue = scheduler.waiting
    while (first := queue.first()) is not None:
        found.append(first.job.request.id)
        queue.admit(first)
    return found


def test_tenants_take_turns_by_weight() -> None:
    """Requests of equal cost, of which a tenant of weight 2 gets two to another's one."""
    scheduler = make()
    for i in range(6):
        scheduler.add(request(f"a{i}", [1, 2], tenant="a", weight=2))
    for i in range(3):
        scheduler.add(request(f"b{i}", [1, 2], tenant="b"))
    assert waiting(scheduler) == ["a0", "b0", "a1", "a2", "b1", "a3", "a4", "b2", "a5"]


def test_background_stands_behind_the_interactive_ones_of_all_tenants() -> None:
    """And does not count against its tenant's interactive ones."""
    scheduler = make()
    for i in range(3):
        scheduler.add(request(f"a-back{i}", [1] * 20, tenant="a", priority="background"))
    for i in range(2):
        scheduler.add(request(f"b-back{i}", [1] * 20, tenant="b", priority="background"))
    for name in ("a", "b"):
        for i in range(2):
            scheduler.add(request(f"{name}{i}", [1] * 20, tenant=name))
    front = ["a0", "b0", "a1", "b1"]
    assert waiting(scheduler) == [*front, "a-back0", "b-back0", "a-back1", "b-back1", "a-back2"]


def test_a_released_request_keeps_its_place_among_its_tenants() -> None:
    """Also among those that run: it is not preempted before a later one."""
    scheduler = make(num_pages=40)
    machine = Machine(scheduler)
    scheduler.add(request("held", [1, 2, 3], 12, tenant="a"), held=True)
    for rid in ("a1", "a2"):
        scheduler.add(request(rid, [1, 2, 3], 12, tenant="a"))
    machine.step()
    scheduler.release("held")
    scheduler.add(request("a3", [1, 2, 3], 12, tenant="a"))
    machine.step()
    assert [s.job.request.id for s in scheduler.running] == ["held", "a1", "a2", "a3"]
    scheduler.check()


def test_after_a_restart_those_that_had_begun_go_first() -> None:
    """The client submits all again, in order of arrival: `a0`, `a1` and `b0` had been running."""
    scheduler = make(num_pages=40)
    for tenant, num_begun in [("c", 0), ("a", 2), ("b", 1)]:
        for i in range(4):
            wanted = request(f"{tenant}{i}", [1] * 9, tenant=tenant)
            if i < num_begun:
                wanted = replace(wanted, resumed=((3, 3),), resumed_cached_tokens=0)
            scheduler.add(wanted)
    order = waiting(scheduler)
    assert set(order[:3]) == {"a0", "a1", "b0"}
    assert order[3] == "c0"


def test_a_preempted_request_is_the_next_to_come_back() -> None:
    flood = Flood(scheduler_for(8, num_pages=24))
    for tenant in ("a", "b"):
        for _ in range(6):
            flood.add(tenant, 40, 60)
    preempted: list[str] = []
    while flood.scheduler.num_unfinished:
        flood.step()
        first = flood.scheduler.waiting.first()
        again = [s for s in flood.scheduler.waiting if s.job.start_tag is not None]
        if again:
            assert isinstance(first, Sequence)
            assert first.job.place == min(s.job.place for s in again)
            preempted.append(first.job.request.id)
    assert preempted
    assert len(flood.begun) == 12


def test_an_endless_stream_of_new_tenants_starves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "MOST_IDLE", 5)
    flood = Flood(scheduler_for(1))
    last = [flood.add("steady", 10, 10) for _ in range(5)][-1]
    for i in range(1000):
        flood.add(f"passer{i:04}", 10, 10)
        while flood.scheduler.num_unfinished > 5:
            flood.step()
        assert len(flood.scheduler.waiting._interactive.idle) <= 5
        if last in flood.begun:
            return
    pytest.fail("a tenant that waited was never served")


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(BadRequest, match="weight is 0"):
        make().add(request("a", [1], weight=0))


@pytest.mark.parametrize("seed", range(5))
def test_random_lives_of_tenants(seed: int) -> None:
    """No leaked page, no starved request, and replay is identical."""

    def trace() -> list[tuple[object, ...]]:
        rng = random.Random(seed)
        num_pages, max_step = rng.choice([10, 13, 30]), rng.choice([6, 16, 64])
        machine = Machine(make(num_pages=num_pages, max_step_tokens=max_step))
        live(machine, rng, 1000, tenants=[("a", 1), ("b", 3), ("c", 1), ("", 1)])
        return machine.trace

    assert trace() == trace()
