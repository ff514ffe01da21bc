"""Revenue against cost."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribody.billing.margin import Cost, ServingTime, by_model, divided, margins
from tribody.billing.periods import day_bounds_ms
from tribody.billing.reports import UsageRow
from tribody.core.errors import BadConfig

HOUR = 3_600_000
FIRST, NEXT = day_bounds_ms("2026-11-01")
LAST = day_bounds_ms("2026-11-02")[1]
YUAN = 1_000_000


def usage(day: str, model: str, micro: int, currency: str = "CNY") -> UsageRow:
    return UsageRow(
        day=day,
        model=model,
        currency=currency,
        requests=1,
        prompt_tokens=900_000,
        completion_tokens=100_000,
        charged_micro=micro,
    )


def test_a_day_costs_every_hour_and_models_share_it() -> None:
    time = ServingTime(FIRST, LAST)
    time.add("big", FIRST, FIRST + 6 * HOUR)
    time.add("small", FIRST + 3 * HOUR, FIRST + 5 * HOUR)
    rows = margins(
        [usage("2026-11-01", "big", 100 * YUAN), usage("2026-11-01", "small", 8 * YUAN)],
        time,
        Cost(micro_per_hour=YUAN, nodes=2),
        FIRST,
        LAST,
    )
    big, small, day, idle = rows
    assert (big.day, big.model, big.cost_micro, big.revenue_micro) == (
        "2026-11-01",
        "big",
        36 * YUAN,
        100 * YUAN,
    )
    assert (small.cost_micro, small.margin_micro) == (12 * YUAN, -4 * YUAN)
    assert small.margin_share == -0.5
    assert big.cost_per_million_micro == 36 * YUAN
    assert (big.at_once, small.at_once) == (0.25, 2 / 24)
    assert big.busy is None
    assert (day.model, day.cost_micro, day.revenue_micro) == ("", 48 * YUAN, 108 * YUAN)
    assert (day.busy, day.requests) == (0.25, 2)
    assert day.at_once == pytest.approx(8 / 24)
    assert (idle.day, idle.model, idle.cost_micro, idle.revenue_micro, idle.busy) == (
        "2026-11-02",
        "",
        48 * YUAN,
        0,
        0.0,
    )
    assert idle.margin_share is None
    assert idle.cost_per_million_micro is None
    *models, total = by_model(rows, time, LAST - FIRST)
    assert [(row.model, row.cost_micro) for row in models] == [
        ("big", 36 * YUAN),
        ("small", 12 * YUAN),
    ]
    assert (total.cost_micro, total.revenue_micro, total.busy) == (96 * YUAN, 108 * YUAN, 0.125)
    assert total.at_once == pytest.approx(8 / 48)


def test_requests_across_midnight_and_beyond_the_period() -> None:
    time = ServingTime(FIRST, LAST)
    time.add("a", FIRST - 5 * HOUR, FIRST + HOUR)
    time.add("a", NEXT - HOUR, NEXT + 2 * HOUR)
    time.add("a", NEXT - HOUR, NEXT + HOUR)
    time.add("b", LAST - HOUR, LAST + 9 * HOUR)
    time.add("b", LAST - HOUR, LAST - 2 * HOUR)  # the clock was set back
    assert time.request_ms == {
        ("2026-11-01", "a"): 3 * HOUR,
        ("2026-11-02", "a"): 3 * HOUR,
        ("2026-11-02", "b"): HOUR,
    }
    assert time.busy_ms == {"2026-11-01": 2 * HOUR, "2026-11-02": 3 * HOUR}


def test_a_part_of_a_day_costs_a_part() -> None:
    rows = margins(
        [], ServingTime(FIRST, FIRST + HOUR), Cost(micro_per_hour=7), FIRST, FIRST + HOUR
    )
    assert [(row.day, row.cost_micro) for row in rows] == [("2026-11-01", 7)]


def test_without_any_time_requests_share_the_cost() -> None:
    """Requests that took less than a millisecond still have to carry the day."""
    rows = margins(
        [usage("2026-11-01", "a", 1), usage("2026-11-01", "b", 1)],
        ServingTime(FIRST, NEXT),
        Cost(micro_per_hour=YUAN),
        FIRST,
        NEXT,
    )
    assert [row.cost_micro for row in rows] == [12 * YUAN, 12 * YUAN, 24 * YUAN]


def test_other_currencies_need_a_rate() -> None:
    rows = [usage("2026-11-01", "a", 100, "USD"), usage("2026-11-01", "a", 5)]
    time = ServingTime(FIRST, NEXT)
    with pytest.raises(BadConfig, match="--rate USD=NUMBER"):
        margins(rows, time, Cost(micro_per_hour=1), FIRST, NEXT)
    cost = Cost(micro_per_hour=1, rates={"USD": Fraction("7.125")})
    first, _day = margins(rows, time, cost, FIRST, NEXT)
    assert first.revenue_micro == 712 + 5  # 712.5, half to even


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=9))
def test_parts_add_up(amount: int, weights: list[int]) -> None:
    parts = divided(amount, weights)
    assert sum(parts) == amount
    total = sum(weights)
    if total:
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part - Fraction(amount * weight, total)) <= 1
