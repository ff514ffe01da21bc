"""Requests and tokens per minute, against a list of all that was ever admitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tribody.core.clock import ManualClock
from tribody.core.errors import Overloaded
from tribody.core.principal import LOCAL, NO_LIMITS, Limits, Principal
from tribody.tenancy.rates import RateLimited, Rates, Refusal, Remaining, Room, Taken


def limits(requests: int = 0, tokens: int = 0) -> Limits:
    return Limits(requests_per_minute=requests, tokens_per_minute=tokens)


def principal(
    key: str = "k", tenant: str = "t", *, own: Limits = NO_LIMITS, whole: Limits = NO_LIMITS
) -> Principal:
    """With limits of its own, as a key, and of the whole tenant."""
    return Principal(tenant_id=tenant, key_id=key, key_limits=own, tenant_limits=whole)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000.0)


@pytest.fixture
def rates(clock: ManualClock) -> Rates:
    return Rates(clock)


def refusal(rates: Rates, who: Principal, tokens: int = 0) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        rates.take(who, tokens)
    return caught.value


# --- what is admitted -------------------------------------------------------------------------


def test_without_limits_nothing_is_counted(rates: Rates) -> None:
    for _ in range(100):
        assert rates.take(LOCAL, 10**9).remaining == Remaining()
    daily = principal(own=Limits(concurrency=1, tokens_per_day=1), whole=Limits(micro_per_day=1))
    assert rates.take(daily, 5).remaining == Remaining()
    assert len(rates) == 0


def test_so_many_requests_and_no_more(rates: Rates) -> None:
    who = principal(own=limits(requests=3))
    assert [rates.take(who, 9).remaining.requests.remaining for _ in range(3)] == [2, 1, 0]  # type: ignore[union-attr]
    error = refusal(rates, who)
    assert error.refusal == Refusal("key", "requests", 3, 61)
    assert error.remaining == Remaining(requests=Room(3, 0, 61))
    assert str(error) == (
        "Rate Limit Reached: this key may use 3 requests per minute; send it again in 61 s."
    )
    assert isinstance(error, Overloaded)


def test_so_many_tokens_and_no_more(rates: Rates) -> None:
    who = principal(whole=limits(tokens=10))
    assert rates.take(who, 6).remaining == Remaining(tokens=Room(10, 4, 61))
    assert refusal(rates, who, 5).refusal == Refusal("tenant", "tokens", 10, 61)
    assert rates.take(who, 4).remaining == Remaining(tokens=Room(10, 0, 61))
    assert rates.take(who, 0).remaining == Remaining(tokens=Room(10, 0, 61))
    assert refusal(rates, who, 1).remaining == Remaining(tokens=Room(10, 0, 61))


def test_what_is_larger_than_the_limit_never_fits(rates: Rates) -> None:
    who = principal(own=limits(tokens=10))
    error = refusal(rates, who, 11)
    assert error.refusal == Refusal("key", "tokens", 10, None)
    assert error.remaining == Remaining(tokens=Room(10, 10, 0))
    assert str(error) == (
        "Rate Limit Reached: this key may use 10 tokens per minute; this request alone needs "
        "more: make it shorter or ask for fewer tokens."
    )
    rates.take(who, 10)


def test_a_refusal_takes_nothing_from_anybody(rates: Rates) -> None:
    """Key and tenant, requests and tokens: whichever refuses, the others are as before."""
    tight = limits(requests=1)
    for who in (
        principal(own=tight, whole=limits(5, 50)),
        principal(own=limits(5, 50), whole=tight),
    ):
        fresh = Rates(ManualClock())
        fresh.take(who, 10)
        for _ in range(10):
            refusal(fresh, who, 10)
        loose = principal(key="l", whole=limits(5, 50)), principal(tenant="l", own=limits(5, 50))
        for other in loose:
            room = fresh.take(other, 0).remaining.tokens
            assert room is not None
            assert room.remaining in (40, 50)
    assert len(rates) == 0


def test_one_key_does_not_use_up_another(rates: Rates) -> None:
    for key in ("a", "b"):
        rates.take(principal(key, own=limits(requests=1)), 0)
    refusal(rates, principal("a", own=limits(requests=1)))
    shared = limits(requests=1)
    rates.take(principal("c", "x", whole=shared), 0)
    assert refusal(rates, principal("d", "x", whole=shared)).refusal.whose == "tenant"
    rates.take(principal("e", "y", whole=shared), 0)


def test_a_key_and_a_tenant_of_one_name_are_two(rates: Rates) -> None:
    both = principal("same", "same", own=limits(requests=3), whole=limits(requests=3))
    assert rates.take(both, 0).remaining.requests == Room(3, 2, 61)


def test_the_tighter_limit_is_told(rates: Rates, clock: ManualClock) -> None:
    who = principal(own=limits(5, 100), whole=limits(9, 50))
    assert rates.take(who, 10).remaining == Remaining(Room(5, 4, 61), Room(50, 40, 61))
    clock.advance(10)
    rates.take(principal("other", own=limits(9), whole=limits(9, 50)), 10)
    assert rates.take(who, 0).remaining == Remaining(Room(5, 3, 61), Room(50, 30, 61))
    clock.advance(55)
    tie = principal("fresh", own=limits(tokens=40), whole=limits(9, 50))
    assert rates.take(tie, 0).remaining.tokens == Room(50, 40, 6)


def test_of_equal_limits_the_one_that_is_whole_later_is_told(
    rates: Rates, clock: ManualClock
) -> None:
    rates.take(principal("early", "t", whole=limits(tokens=10)), 4)
    rates.take(principal("k", "early", own=limits(tokens=10)), 4)
    clock.advance(20)
    late = principal("late", "t", own=limits(tokens=6), whole=limits(tokens=10))
    assert rates.take(late, 0).remaining.tokens == Room(10, 6, 41)
    late = principal("k", "late", own=limits(tokens=10), whole=limits(tokens=6))
    assert rates.take(late, 0).remaining.tokens == Room(10, 6, 41)


def test_of_several_limits_the_longest_wait_is_told(rates: Rates, clock: ManualClock) -> None:
    whole = limits(tokens=10)
    rates.take(principal("a", own=limits(requests=1), whole=whole), 0)
    clock.advance(30)
    rates.take(principal("b", whole=whole), 10)
    error = refusal(rates, principal("a", own=limits(requests=1), whole=whole), 10)
    assert error.refusal == Refusal("tenant", "tokens", 10, 61)
    error = refusal(rates, principal("a", own=limits(1, 5), whole=whole), 6)
    assert error.refusal == Refusal("key", "tokens", 5, None)


# --- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.999])
def test_what_was_used_counts_for_a_minute(fraction: float) -> None:
    clock = ManualClock(7 + fraction)
    rates = Rates(clock)
    who = principal(own=limits(requests=1))
    rates.take(who, 0)
    clock.advance(60)
    wait = refusal(rates, who).refusal.retry_after
    assert wait == 1
    clock.advance(wait)
    rates.take(who, 0)


def test_room_comes_back_as_it_was_taken(rates: Rates, clock: ManualClock) -> None:
    who = principal(own=limits(tokens=10))
    for tokens in (2, 3, 5):
        rates.take(who, tokens)
        clock.advance(10)
    assert refusal(rates, who, 2).refusal.retry_after == 31
    assert refusal(rates, who, 3).refusal.retry_after == 41
    assert refusal(rates, who, 6).refusal.retry_after == 51
    clock.advance(31)
    assert rates.take(who, 0).remaining.tokens == Room(10, 2, 20)
    clock.advance(0.5)
    rates.take(who, 2)
    assert refusal(rates, who, 1).refusal.retry_after == 10
    assert refusal(rates, who, 1).remaining.tokens == Room(10, 0, 61)


def test_a_request_slides_out_whatever_tokens_it_had(rates: Rates, clock: ManualClock) -> None:
    who = principal(own=limits(requests=2))
    rates.take(who, 0)
    clock.advance(10)
    rates.take(who, 7)
    assert refusal(rates, who).refusal.retry_after == 51
    clock.advance(51)
    rates.take(who, 0)
    assert refusal(rates, who).refusal.retry_after == 10


def test_no_minute_is_double(rates: Rates, clock: ManualClock) -> None:
    """A bucket that is full at first and fills up again would let 20 in."""
    who = principal(own=limits(requests=10))
    admitted = 0
    for _ in range(600):
        try:
            rates.take(who, 0)
            admitted += 1
        except RateLimited:
            pass
        clock.advance(0.1)
    assert admitted == 10


def test_limits_may_change_at_any_time(rates: Rates) -> None:
    rates.take(principal(own=limits(requests=5)), 0)
    rates.take(principal(own=limits(requests=5)), 0)
    error = refusal(rates, principal(own=limits(requests=1)))
    assert error.remaining.requests == Room(1, 0, 61)
    assert error.refusal.retry_after == 61
    assert rates.take(principal(own=limits(requests=4)), 0).remaining.requests == Room(4, 1, 61)


# --- what was really used ---------------------------------------------------------------------


def left(rates: Rates, who: Principal) -> tuple[int, int]:
    """Requests and tokens, before a request that asks."""
    asked = rates.take(who, 0)
    requests, tokens = asked.remaining.requests, asked.remaining.tokens
    assert requests is not None
    assert tokens is not None
    rates.give_back(asked)
    return requests.remaining + 1, tokens.remaining


def test_tokens_that_were_not_used_come_back(rates: Rates, clock: ManualClock) -> None:
    who = principal(own=limits(9, 100), whole=limits(9, 100))
    first = rates.take(who, 50)
    clock.advance(5)
    second = rates.take(who, 50)
    clock.advance(5)
    rates.correct(first, 20)
    assert left(rates, who) == (7, 30)
    rates.correct(second, 50)
    assert left(rates, who) == (7, 30)
    clock.advance(51)
    assert left(rates, who) == (8, 50)


def test_tokens_beyond_what_was_taken_count_from_then_on(rates: Rates, clock: ManualClock) -> None:
    who = principal(own=limits(9, 100), whole=limits(9, 200))
    taken = rates.take(who, 10)
    clock.advance(40)
    rates.correct(taken, 130)
    assert refusal(rates, who, 0).remaining == Remaining(Room(9, 8, 21), Room(100, 0, 61))
    clock.advance(21)
    assert refusal(rates, who, 1).refusal == Refusal("key", "tokens", 100, 40)
    clock.advance(40)
    assert left(rates, who) == (9, 100)


def test_a_request_that_did_not_run_counts_nowhere(rates: Rates, clock: ManualClock) -> None:
    who = principal(own=limits(9, 100), whole=limits(9, 100))
    kept, gone = rates.take(who, 10), rates.take(who, 50)
    clock.advance(3)
    rates.give_back(gone)
    assert left(rates, who) == (8, 90)
    rates.give_back(kept)
    assert left(rates, who) == (9, 100)


def test_only_the_first_settlement_counts(rates: Rates) -> None:
    who = principal(own=limits(9, 100))
    rates.take(who, 30)
    taken = rates.take(who, 50)
    rates.correct(taken, 20)
    for _ in range(2):
        rates.correct(taken, 0)
        rates.correct(taken, 60)
        rates.give_back(taken)
    assert left(rates, who) == (7, 50)
    other = rates.take(who, 50)
    rates.give_back(other)
    rates.give_back(other)
    rates.correct(other, 99)
    assert left(rates, who) == (7, 50)


def test_what_has_slid_out_is_not_taken_back_again(rates: Rates, clock: ManualClock) -> None:
    """An answer may take longer than a minute."""
    who = principal(own=limits(9, 100))
    slow, failed, longer = rates.take(who, 50), rates.take(who, 20), rates.take(who, 30)
    clock.advance(61)
    rates.take(who, 40)
    rates.correct(slow, 10)
    rates.give_back(failed)
    assert left(rates, who) == (8, 60)
    rates.correct(longer, 35)
    assert left(rates, who) == (8, 55)


def test_a_window_that_is_gone_is_begun_again_only_for_more(
    rates: Rates, clock: ManualClock
) -> None:
    who = principal(own=limits(9, 100), whole=limits(9, 100))
    less, none, more = rates.take(who, 10), rates.take(who, 10), rates.take(who, 10)
    clock.advance(61)
    rates.take(principal("x", "x", own=limits(1)), 0)
    assert len(rates) == 1
    rates.correct(less, 5)
    rates.give_back(none)
    assert len(rates) == 1
    rates.correct(more, 15)
    assert len(rates) == 3
    assert left(rates, who) == (9, 95)


def test_windows_of_nobody_are_forgotten(rates: Rates, clock: ManualClock) -> None:
    for number in range(1_000):
        rates.take(principal(f"k{number}", f"t{number}", own=limits(1), whole=limits(1)), 0)
        clock.advance(1.0)
        assert len(rates) <= 2 * 61
    clock.advance(61)
    rates.take(principal("last", own=limits(1)), 0)
    assert len(rates) == 1


def test_a_busy_window_is_small(rates: Rates, clock: ManualClock) -> None:
    who = principal(own=limits(10**9, 10**9))
    for _ in range(20_000):
        rates.take(who, 1)
        clock.advance(0.01)
    (window,) = rates._windows.values()
    assert len(window.uses) <= 61
    assert window.requests == sum(use.requests for use in window.uses)


# --- against a list ---------------------------------------------------------------------------


@dataclass
class Admitted:
    at: float
    key: str
    tenant: str
    tokens: int
    taken: Taken


KEY_LIMITS = {"a": limits(3, 40), "b": limits(0, 25), "c": limits(5, 0)}
TENANT_LIMITS = {"x": limits(4, 60), "y": limits(0, 0)}


class AgainstAList(RuleBasedStateMachine):
    """The same answers as from a list of everything, and never more than a limit in 60 seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(0.5)
        self.rates = Rates(self.clock)
        self.admitted: list[Admitted] = []
        self.uses: list[tuple[float, str, str, int, int]] = []  # at, key, tenant, requests, tokens

    def used(self, place: int, name: str, since: float) -> tuple[int, int]:
        found = [use for use in self.uses if use[place] == name and math.floor(use[0]) > since]
        return sum(use[3] for use in found), sum(use[4] for use in found)

    def fits(self, key: str, tenant: str, tokens: int) -> bool:
        since = math.floor(self.clock.now()) - 61
        for place, name, limit in ((1, key, KEY_LIMITS[key]), (2, tenant, TENANT_LIMITS[tenant])):
            requests, used = self.used(place, name, since)
            if limit.requests_per_minute and requests + 1 > limit.requests_per_minute:
                return False
            if limit.tokens_per_minute and used + tokens > limit.tokens_per_minute:
                return False
        return True

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 7.3, 30.0, 59.9, 60.0, 61.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(
        key=st.sampled_from(list(KEY_LIMITS)),
        tenant=st.sampled_from(list(TENANT_LIMITS)),
        tokens=st.integers(0, 45),
    )
    def take(self, key: str, tenant: str, tokens: int) -> None:
        who = principal(key, tenant, own=KEY_LIMITS[key], whole=TENANT_LIMITS[tenant])
        now = self.clock.now()
        try:
            taken = self.rates.take(who, tokens)
        except RateLimited as error:
            assert not self.fits(key, tenant, tokens)
            self.check_wait(error, key, tenant, tokens)
            return
        assert self.fits(key, tenant, tokens)
        self.uses.append((now, key, tenant, 1, tokens))
        self.admitted.append(Admitted(now, key, tenant, tokens, taken))

    def check_wait(self, error: RateLimited, key: str, tenant: str, tokens: int) -> None:
        """After `retry_after` it fits, a second earlier it does not."""
        wait = error.refusal.retry_after
        now = self.clock.now()
        for seconds, expected in (
            (wait, True),
            (wait and wait - 1, False),
            (1e6, wait is not None),
        ):
            if seconds is not None:
                self.clock = ManualClock(now + seconds)
                assert self.fits(key, tenant, tokens) == expected
        self.clock = self.rates._clock  # type: ignore[assignment]

    @rule(data=st.data(), tokens=st.integers(0, 60))
    def correct(self, data: Any, tokens: int) -> None:
        one = self.pick(data)
        if one is None:
            return
        self.rates.correct(one.taken, tokens)
        if tokens > one.tokens:
            more = tokens - one.tokens
            self.uses.append((self.clock.now(), one.key, one.tenant, 0, more))
        else:
            self.uses.append((one.at, one.key, one.tenant, 0, tokens - one.tokens))

    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        one = self.pick(data)
        if one is not None:
            self.rates.give_back(one.taken)
            self.uses.append((one.at, one.key, one.tenant, -1, -one.tokens))

    def pick(self, data: Any) -> Admitted | None:
        if not self.admitted:
            return None
        return self.admitted.pop(data.draw(st.integers(0, len(self.admitted) - 1)))

    @invariant()
    def never_more_requests_than_the_limit(self) -> None:
        start = self.clock.now() - 60
        for name, limit in KEY_LIMITS.items():
            recent = [use for use in self.uses if use[1] == name and use[0] > start]
            if limit.requests_per_minute:
                assert sum(use[3] for use in recent) <= limit.requests_per_minute
            if limit.tokens_per_minute and not any(use[3] == 0 < use[4] for use in recent):
                assert sum(use[4] for use in recent) <= limit.tokens_per_minute

    @invariant()
    def sums_are_those_of_the_entries(self) -> None:
        assert len(self.rates) <= len(KEY_LIMITS) + len(TENANT_LIMITS)
        for window in self.rates._windows.values():
            assert window.requests == sum(use.requests for use in window.uses)
            assert window.tokens == sum(use.tokens for use in window.uses)
            assert all(use.requests >= 0 and use.tokens >= 0 for use in window.uses)
            assert len(window.uses) <= 61


AgainstAList.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
TestAgainstAList = AgainstAList.TestCase
