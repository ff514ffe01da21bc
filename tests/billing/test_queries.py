"""Questions that only reports ask."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, YUAN, database, give, reservation, usage
from tribody.billing import ledger, queries
from tribody.billing.queries import UpstreamUsage, head
from tribody.billing.reports import UsageRow
from tribody.billing.tariffs import Tariff
from tribody.billing.usage import Chosen
from tribody.core.errors import NoPrice

HOUR_MS = 3_600_000
UPSTREAM = """
currency = "CNY"

[[rule]]
id = "all"
models = ["r1"]
hit = "0.5"
miss = "2"
output = "8"
"""


@pytest.fixture
def db():
    opened = database()
    give(opened, topped_up=10 * YUAN)
    yield opened
    opened.close()


def record(db, request_id, **changes):
    with db.transaction():
        ledger.record(db, usage(request_id, **changes))


def test_the_end_of_the_chain(db):
    before = head(db)
    record(db, "one")
    after = head(db)
    assert after.sequence == before.sequence + 1
    assert len(after.hash) == 64
    assert after.hash != before.hash


@pytest.mark.parametrize(
    ("minutes", "day"), [(480, "2025-11-24"), (0, "2025-11-23"), (345, "2025-11-24")]
)
def test_days_of_the_upstreams_zone(db, minutes, day):
    ended_ms = NOON_MS - 5 * HOUR_MS  # 07:00 in Shanghai: 23:00 of the day before in UTC
    record(db, "one", started_ms=ended_ms - 1, ended_ms=ended_ms)
    read = UpstreamUsage(minutes, by_month=False, prices=None).read(ledger.usage_records(db))
    assert [(row.day, row.month, row.model) for row in read.rows] == [(day, "2025-11", "r1")]
    months = UpstreamUsage(minutes, by_month=True, prices=None).read(ledger.usage_records(db))
    assert [(row.day, row.month) for row in months.rows] == [("", "2025-11")]


def test_requests_of_all_tenants_are_one_figure_by_currency(db):
    record(db, "one")
    record(db, "two", tenant_id="zeta")
    with db.transaction():
        ledger.reserve(db, reservation("three"))
        ledger.settle(db, "three", COUNTS, "finished", NOON_MS)
    read = UpstreamUsage(480, by_month=False, prices=None).read(ledger.usage_records(db))
    day: dict[str, Any] = {"day": "2025-11-24", "month": "2025-11", "model": "r1"}
    assert read.rows == [
        UsageRow(
            **day,
            requests=2,
            prompt_tokens=2000,
            cached_tokens=1200,
            completion_tokens=200,
            reasoning_tokens=80,
        ),
        UsageRow(
            **day,
            currency="CNY",
            requests=1,
            prompt_tokens=1000,
            cached_tokens=600,
            completion_tokens=100,
            reasoning_tokens=40,
            charged_micro=3800,
        ),
    ]
    assert read.expected == {}


def test_the_upstreams_free_tokens_are_free_once(db):
    for index in range(3):
        record(db, str(index))
    text = UPSTREAM.replace("[[rule]]", "[free.trial]\noutput = 150\n\n[[rule]]") + 'free = "trial"'
    read = UpstreamUsage(480, by_month=True, prices=Tariff.parse(text))
    read.read(ledger.usage_records(db))
    prompts = 600 * Fraction(1, 2) + 400 * 2
    assert read.expected == {("2025-11", "r1"): {"CNY": 3 * prompts + 150 * 8}}


def test_what_the_bill_should_say(db):
    record(db, "one")
    record(db, "two")
    tariff = Tariff.parse(UPSTREAM)
    read = UpstreamUsage(480, by_month=False, prices=tariff).read(ledger.usage_records(db))
    each = 600 * Fraction(1, 2) + 400 * 2 + 100 * 8
    assert read.expected == {("2025-11-24", "r1"): {"CNY": 2 * each}}
    record(db, "three", model="v9")
    with pytest.raises(NoPrice):
        UpstreamUsage(480, by_month=False, prices=tariff).read(ledger.usage_records(db))


def test_entries_come_with_their_postings_through_all_pages(db, monkeypatch):
    monkeypatch.setattr(queries, "PAGE_ROWS", 3)
    for index in range(4):
        with db.transaction():
            ledger.reserve(db, reservation(str(index)))
            ledger.settle(db, str(index), COUNTS, "finished", NOON_MS)
    record(db, "recorded")
    names = [name for name, _kind in queries.POSTING_COLUMNS]
    rows: list[dict[str, Any]] = [
        dict(zip(names, row, strict=True)) for row in queries.postings(db, Chosen())
    ]
    [(entries, lines)] = db.rows(
        "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM postings)"
    )
    assert len({row["sequence"] for row in rows}) == entries
    assert sum(row["line"] is not None for row in rows) == lines
    assert sum(row["micro"] or 0 for row in rows) == 0
    assert [(row["sequence"], row["line"] or 0) for row in rows] == sorted(
        {(row["sequence"], row["line"] or 0) for row in rows}
    )
    (last,) = (row for row in rows if row["request_id"] == "recorded")
    assert (last["kind"], last["account"], last["micro"]) == ("usage", None, None)
    of_acme = list(queries.postings(db, Chosen(tenant_id="acme", from_ms=NOON_MS)))
    assert len(of_acme) == len(rows) - 1
    assert list(queries.postings(db, Chosen(to_ms=NOON_MS))) == []
