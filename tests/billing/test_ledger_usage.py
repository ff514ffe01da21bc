"""What was used: filters, groups, single records."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, database, give, quote, reservation, usage
from tribody.billing import ledger, periods
from tribody.billing import usage as usage_module
from tribody.billing.ledger import Chosen
from tribody.billing.reports import UsageRow
from tribody.core.metering import Counts

MIDNIGHT_MS = periods.day_end_ms(NOON_MS)
DECEMBER_MS = periods.month_end_ms(NOON_MS)


def run(db, request_id, *, ended_ms=NOON_MS, outcome="finished", counts=COUNTS, **changes):
    ledger.reserve(db, reservation(request_id, **changes))
    ledger.settle(db, request_id, counts, outcome, ended_ms)


@pytest.fixture
def db():
    opened = database()
    give(opened, topped_up=1_000_000)
    give(opened, topped_up=1_000_000, tenant="zeta")
    with opened.transaction():
        run(opened, "one")
        run(opened, "two", key_id="key-2", user_id="bob", ended_ms=MIDNIGHT_MS - 1)
        run(opened, "three", model="v3", ended_ms=MIDNIGHT_MS, route="messages")
        run(opened, "four", tenant_id="zeta", ended_ms=DECEMBER_MS, outcome="error")
        ledger.record(opened, usage("five", ended_ms=DECEMBER_MS - 1))
    yield opened
    opened.close()


def ids(db, **chosen) -> list[str]:
    return [one.record.request_id for one in ledger.usage_records(db, Chosen(**chosen))]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["one", "two", "three", "four", "five"]),
        ({"tenant_id": "acme"}, ["one", "two", "three"]),
        ({"tenant_id": "local"}, ["five"]),
        ({"tenant_id": "nobody"}, []),
        ({"key_id": "key-2"}, ["two"]),
        ({"user_id": "bob"}, ["two"]),
        ({"model": "v3"}, ["three"]),
        ({"from_ms": MIDNIGHT_MS}, ["three", "four", "five"]),
        ({"to_ms": MIDNIGHT_MS}, ["one", "two"]),
        ({"from_ms": NOON_MS + 1, "to_ms": DECEMBER_MS}, ["two", "three", "five"]),
        ({"tenant_id": "acme", "key_id": "key-1", "model": "r1"}, ["one"]),
    ],
)
def test_requests_are_chosen(db, chosen, expected):
    assert ids(db, **chosen) == expected
    rows = ledger.usage_rows(db, (), Chosen(**chosen))
    assert sum(row.requests for row in rows) == len(expected)


def test_a_record_is_what_was_recorded(db):
    first, *_, last = ledger.usage_records(db)
    assert (first.sequence, first.currency, first.charged_micro) == (4, "CNY", 3800)
    assert (first.tariff_digest, first.rule_id) == ("d" * 64, "r1")
    assert first.record == usage(
        tenant_id="acme", user_id="ann", key_id="key-1", streamed=True, ended_ms=NOON_MS
    )
    assert last.record == usage("five", ended_ms=DECEMBER_MS - 1)
    assert (last.currency, last.charged_micro, last.tariff_digest, last.rule_id) == ("", 0, "", "")


def test_records_are_read_in_pages(db, monkeypatch):
    for size in (1, 2, 5, 6):
        monkeypatch.setattr(usage_module, "PAGE_ROWS", size)
        assert ids(db) == ["one", "two", "three", "four", "five"]


def test_sums_by_day(db):
    rows = ledger.usage_rows(db, ["day"], Chosen(tenant_id="acme"))
    assert rows == [
        UsageRow(
            day="2025-11-24",
            currency="CNY",
            requests=2,
            prompt_tokens=2000,
            cached_tokens=1200,
            completion_tokens=200,
            reasoning_tokens=80,
            charged_micro=7600,
        ),
        UsageRow(
            day="2025-11-25",
            currency="CNY",
            requests=1,
            prompt_tokens=1000,
            cached_tokens=600,
            completion_tokens=100,
            reasoning_tokens=40,
            charged_micro=3800,
        ),
    ]


def test_sums_by_everything_else(db):
    def sums(*by):
        rows = ledger.usage_rows(db, by)
        return [(*(getattr(row, name) for name in by), row.currency, row.requests) for row in rows]

    assert sums() == [("", 1), ("CNY", 4)]
    assert sums("tenant") == [("acme", "CNY", 3), ("local", "", 1), ("zeta", "CNY", 1)]
    assert sums("user") == [("", "", 1), ("ann", "CNY", 3), ("bob", "CNY", 1)]
    assert sums("key") == [("key-1", "CNY", 3), ("key-2", "CNY", 1), ("none", "", 1)]
    assert sums("model") == [("r1", "", 1), ("r1", "CNY", 3), ("v3", "CNY", 1)]
    assert sums("route") == [("chat", "", 1), ("chat", "CNY", 3), ("messages", "CNY", 1)]
    assert sums("outcome", "month") == [
        ("error", "2025-12", "CNY", 1),
        ("finished", "2025-11", "", 1),
        ("finished", "2025-11", "CNY", 3),
    ]


def test_an_accepted_answer_is_counted_on_the_day_of_its_acceptance(db):
    by_result = quote(result_micro=2000, accept_seconds=10**6)
    with db.transaction():
        for name in ("yes", "no", "later"):
            run(db, name, model="judge", quote=by_result, worst_micro=9000, counts=Counts())
        ledger.accept(db, "yes", True, DECEMBER_MS)
        ledger.accept(db, "no", False, DECEMBER_MS)
    rows = ledger.usage_rows(db, ["month"], Chosen(model="judge"))
    assert [(row.month, row.requests, row.charged_micro) for row in rows] == [
        ("2025-11", 3, 0),
        ("2025-12", 0, 2000),
    ]
    [row] = ledger.usage_rows(db, (), Chosen(model="judge", to_ms=DECEMBER_MS))
    assert row.charged_micro == 0
    [row] = ledger.usage_rows(db, ["key"], Chosen(tenant_id="acme", from_ms=DECEMBER_MS))
    assert (row.key, row.requests, row.charged_micro, row.currency) == ("key-1", 0, 2000, "CNY")


def test_serving_times_are_those_within_and_in_order(db):
    times = list(ledger.serving_times(db, NOON_MS + 1, DECEMBER_MS))
    assert times == [
        ("r1", NOON_MS, MIDNIGHT_MS - 1),
        ("v3", NOON_MS, MIDNIGHT_MS),
        ("r1", NOON_MS, DECEMBER_MS),
        ("r1", NOON_MS, DECEMBER_MS - 1),
    ]
    assert list(ledger.serving_times(db, 0, NOON_MS)) == []
    assert list(ledger.serving_times(db, DECEMBER_MS, DECEMBER_MS + 1)) == []
