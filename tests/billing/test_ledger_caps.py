"""Caps by day and month: what is held counts, what was free of charge by our fault does not."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, database, give, quote, reservation, usage
from tribody.billing import ledger, periods
from tribody.core.metering import Counts
from tribody.core.principal import Limits

DAY_MS = periods.DAY_MS
MIDNIGHT_MS = periods.day_end_ms(NOON_MS)
DECEMBER_MS = periods.month_end_ms(NOON_MS)


@pytest.fixture
def db():
    opened = database()
    give(opened, topped_up=1_000_000)
    yield opened
    opened.close()


def reserve(db, request_id="one", **changes):
    with db.transaction():
        ledger.reserve(db, reservation(request_id, **changes))


def settle(db, request_id="one", counts=COUNTS, outcome="finished"):
    with db.transaction():
        ledger.settle(db, request_id, counts, outcome, NOON_MS + 9)


def totals(db) -> dict[tuple[str, str], tuple[int, ...]]:
    rows = db.rows("SELECT scope, period, tokens, micro, held_tokens, held_micro FROM totals")
    return {(scope, period): tuple(rest) for scope, period, *rest in rows}


CAPS = {
    "tokens_per_day": (1200, MIDNIGHT_MS),
    "tokens_per_month": (1200, DECEMBER_MS),
    "micro_per_day": (5000, MIDNIGHT_MS),
    "micro_per_month": (5000, DECEMBER_MS),
}


@pytest.mark.parametrize("scope", ["tenant", "key"])
@pytest.mark.parametrize("cap", CAPS)
def test_a_cap_is_reached_by_one_more(db, cap, scope):
    most, resets_ms = CAPS[cap]
    field = f"{scope}_limits"
    with pytest.raises(ledger.CapReached, match=f"{scope}'s limit of {most - 1}") as reached:
        reserve(db, **{field: Limits(**{cap: most - 1})})
    error = reached.value
    assert (error.which, error.limit, error.scope) == (cap, most - 1, scope)
    assert error.resets_ms == resets_ms
    reserve(db, **{field: Limits(**{cap: most})})
    with pytest.raises(ledger.CapReached):  # what is held counts
        reserve(db, "two", worst_tokens=1, worst_micro=1, **{field: Limits(**{cap: most})})
    settle(db, counts=Counts(prompt_tokens=1))
    reserve(db, "two", worst_tokens=1, worst_micro=1, **{field: Limits(**{cap: most})})
    settle(db, "two", counts=Counts(completion_tokens=1))
    used = 2 if cap.startswith("tokens") else 4 + 16
    left = most - used
    with pytest.raises(ledger.CapReached):
        reserve(
            db, "3", worst_tokens=left + 1, worst_micro=left + 1, **{field: Limits(**{cap: most})}
        )
    reserve(db, "three", worst_tokens=left, worst_micro=left, **{field: Limits(**{cap: most})})


def test_days_and_months_begin_anew(db):
    limits = Limits(tokens_per_day=1200)
    reserve(db, "one", at_ms=MIDNIGHT_MS - 1, tenant_limits=limits)
    with pytest.raises(ledger.CapReached):
        reserve(db, "two", at_ms=MIDNIGHT_MS - 1, tenant_limits=limits)
    reserve(db, "two", at_ms=MIDNIGHT_MS, tenant_limits=limits)
    limits = Limits(micro_per_month=10_000)
    with pytest.raises(ledger.CapReached):
        reserve(db, "three", at_ms=DECEMBER_MS - 1, tenant_limits=limits)
    reserve(db, "three", at_ms=DECEMBER_MS, tenant_limits=limits)


def test_a_clock_that_jumps_back_counts_in_its_own_day(db):
    limits = Limits(tokens_per_day=1200)
    reserve(db, "tomorrow", at_ms=NOON_MS + DAY_MS, tenant_limits=limits)
    reserve(db, "today", at_ms=NOON_MS, tenant_limits=limits)
    with pytest.raises(ledger.CapReached):
        reserve(db, "again", at_ms=NOON_MS + DAY_MS, tenant_limits=limits)
    settle(db, "tomorrow")  # booked before it began
    assert db.rows("SELECT at_ms FROM entries WHERE sequence > 1 ORDER BY sequence") == [
        (NOON_MS + DAY_MS,),
        (NOON_MS,),
        (NOON_MS + 9,),
    ]


def test_keys_and_tenants_have_totals_of_their_own(db):
    limits = Limits(tokens_per_day=1200)
    reserve(db, "one", key_limits=limits)
    reserve(db, "two", key_id="key-2", key_limits=limits)
    give(db, topped_up=10_000, tenant="zeta")
    reserve(db, "three", tenant_id="zeta", tenant_limits=limits, key_limits=limits)
    with pytest.raises(ledger.CapReached):
        reserve(db, "four", key_id="key-3", tenant_limits=Limits(tokens_per_day=2400))


def test_both_caps_hold_and_the_tenant_s_is_named_first(db):
    small, large = Limits(tokens_per_day=1000), Limits(tokens_per_day=10_000)
    for tenant_limits, key_limits, scope in (
        (small, small, "tenant"),
        (small, large, "tenant"),
        (large, small, "key"),
    ):
        with pytest.raises(ledger.CapReached) as reached:
            reserve(db, tenant_limits=tenant_limits, key_limits=key_limits)
        assert reached.value.scope == scope
    reserve(db, tenant_limits=large, key_limits=large)


def test_money_is_capped_by_currency_and_tokens_over_all(db):
    limits = Limits(micro_per_day=5000, tokens_per_day=2400)
    with db.transaction():
        ledger.top_up(db, "acme", 10_000, "USD", "dollars", "", NOON_MS, "test")
    reserve(db, "yuan", tenant_limits=limits)
    reserve(db, "dollars", quote=quote(currency="USD"), tenant_limits=limits)
    with pytest.raises(ledger.CapReached) as reached:
        reserve(db, "more", worst_micro=0, worst_tokens=1, tenant_limits=limits)
    assert reached.value.which == "tokens_per_day"


@pytest.mark.parametrize("outcome", ["error", "restart", "drain", "refused"])
def test_our_failures_use_nothing_up(db, outcome):
    reserve(db)
    assert set(totals(db).values()) == {(0, 0, 1200, 5000)}
    settle(db, outcome=outcome)
    assert set(totals(db).values()) == {(0, 0, 0, 0)}


def test_what_was_used_is_counted_in_four_totals(db):
    reserve(db)
    settle(db)
    assert totals(db) == {
        ("tenant/acme", "2025-11-24"): (1100, 3800, 0, 0),
        ("tenant/acme", "2025-11"): (1100, 3800, 0, 0),
        ("tenant/acme/key/key-1", "2025-11-24"): (1100, 3800, 0, 0),
        ("tenant/acme/key/key-1", "2025-11"): (1100, 3800, 0, 0),
    }


def test_recorded_usage_counts_too(db):
    with db.transaction():
        ledger.record(db, usage(tenant_id="acme", key_id="key-1"))
    with pytest.raises(ledger.CapReached):
        reserve(db, "two", worst_tokens=101, tenant_limits=Limits(tokens_per_day=1200))
    reserve(db, "two", worst_tokens=100, tenant_limits=Limits(tokens_per_day=1200))


def test_a_refused_request_holds_nothing(db):
    with pytest.raises(ledger.CapReached):
        reserve(db, key_limits=Limits(tokens_per_day=1))
    assert totals(db) == {}
    assert ledger.open_reservations(db) == []
