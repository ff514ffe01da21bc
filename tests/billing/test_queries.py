"""Questions to the ledger: groups, order, boundaries."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import (
    COST,
    COUNTS,
    NOON_MS,
    YUAN,
    database,
    give,
    quote,
    reservation,
    usage,
)
from tribody.billing import ledger, queries
from tribody.billing.queries import Where

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def db():
    opened = database()
    give(opened, granted=3000, topped_up=10 * YUAN)
    yield opened
    opened.close()


def ask(db, request_id, **changes):
    with db.transaction():
        ledger.reserve(db, reservation(request_id, **changes))
        at_ms = changes.get("at_ms", NOON_MS)
        ledger.settle(db, request_id, COUNTS, "finished", at_ms + 5000)


def record(db, request_id, **changes):
    with db.transaction():
        ledger.record(db, usage(request_id, **changes))


def test_groups(db):
    ask(db, "one")
    ask(db, "two", model="v3", at_ms=NOON_MS + DAY_MS)
    ask(db, "three", key_id="key-2")
    record(db, "four")
    rows = queries.usage_groups(db, Where(), ("tenant",))
    assert [(r.tenant, r.currency, r.requests, r.charged_micro) for r in rows] == [
        ("acme", "CNY", 3, 3 * COST),
        ("local", "", 1, 0),
    ]
    assert rows[0].prompt_tokens == 3 * COUNTS.prompt_tokens
    assert rows[0].cached_tokens == 3 * COUNTS.cached_tokens
    assert rows[0].completion_tokens == 3 * COUNTS.completion_tokens
    assert rows[0].reasoning_tokens == 3 * COUNTS.reasoning_tokens
    found = queries.usage_groups(db, Where(tenant="acme"), ("day", "model", "key"))
    assert [(r.day, r.model, r.key, r.requests) for r in found] == [
        ("2025-11-24", "r1", "key-1", 1),
        ("2025-11-24", "r1", "key-2", 1),
        ("2025-11-25", "v3", "key-1", 1),
    ]
    assert [r.month for r in queries.usage_groups(db, Where(), ("month",))] == ["2025-11"] * 2
    assert queries.usage_groups(db, Where(tenant="nobody"), ()) == []


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (Where(), 2),
        (Where(tenant="acme"), 1),
        (Where(user="ann"), 1),
        (Where(key="none"), 1),
        (Where(model="r1"), 2),
        (Where(model="r2"), 0),
        (Where(first_ms=NOON_MS), 2),
        (Where(first_ms=NOON_MS + 1), 0),
        (Where(last_ms=NOON_MS), 0),
        (Where(last_ms=NOON_MS + 1), 2),
    ],
)
def test_filters(db, where, count):
    ask(db, "one")
    record(db, "two")
    assert sum(row.requests for row in queries.usage_groups(db, where, ())) == count


def test_days_of_another_zone(db):
    record(db, "one", started_ms=NOON_MS - 5 * HOUR_MS)  # 07:00 in Shanghai: 23:00 before in UTC
    (china,) = queries.usage_groups(db, Where(), ("day",))
    (utc,) = queries.usage_groups(db, Where(), ("day",), offset_minutes=0)
    (kathmandu,) = queries.usage_groups(db, Where(), ("day",), offset_minutes=345)
    assert (china.day, utc.day, kathmandu.day) == ("2025-11-24", "2025-11-23", "2025-11-24")


def test_accepted_results_are_charged_where_their_request_is(db):
    paid = quote(result_micro=2 * YUAN, accept_seconds=86_400)
    ask(db, "one", quote=paid, worst_micro=3 * YUAN)
    ask(db, "two", quote=paid, worst_micro=3 * YUAN)
    with db.transaction():
        ledger.accept(db, "one", True, NOON_MS + HOUR_MS * 13)  # the next day
        ledger.accept(db, "two", False, NOON_MS + HOUR_MS)
    (row,) = queries.usage_groups(db, Where(), ("day", "model"))
    assert (row.day, row.requests, row.charged_micro) == ("2025-11-24", 2, 2 * COST + 2 * YUAN)
    assert row.prompt_tokens == 2 * COUNTS.prompt_tokens


def test_times_come_in_order_through_all_pages(db, monkeypatch):
    monkeypatch.setattr(queries, "PAGE_ROWS", 2)
    begun = [NOON_MS + 7, NOON_MS, NOON_MS + 7, NOON_MS + 3, NOON_MS + 7]
    for index, started_ms in enumerate(begun):
        record(db, str(index), started_ms=started_ms, ended_ms=started_ms + index)
    found = list(queries.times(db, Where()))
    assert [started for _model, started, _ended in found] == sorted(begun)
    assert sorted(ended for _m, _s, ended in found) == sorted(
        started + index for index, started in enumerate(begun)
    )
    assert queries.first_and_last_ms(db, Where()) == (NOON_MS, NOON_MS + 11)
    assert queries.first_and_last_ms(db, Where(model="none")) is None


def test_settled_comes_in_order_through_all_pages(db, monkeypatch):
    monkeypatch.setattr(queries, "PAGE_ROWS", 2)
    for index in range(5):
        ask(db, str(index))
    record(db, "recorded")
    upto = queries.head(db).sequence
    found = list(queries.settled(db, Where(), upto))
    assert [one.charge.request_id for one in found] == ["0", "1", "2", "3", "4"]
    # The head of before the last request: what came later is not seen.
    assert len(list(queries.settled(db, Where(), upto - 2))) == 4
