"""Statements: every movement, what was left after it, and the rules that were used."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, allowance, database, quote, reservation
from tribody.billing import ledger, periods, statements
from tribody.billing.statements import KindSum, Purses
from tribody.core.metering import Counts

DAY_MS = periods.DAY_MS
FROM_MS, TO_MS = periods.month_bounds_ms("2025-11")


@pytest.fixture
def db():
    opened = database()
    with opened.transaction():
        yield opened
    opened.close()


def run(db, request_id, *, ended_ms=NOON_MS, outcome="finished", counts=COUNTS, **changes):
    ledger.reserve(db, reservation(request_id, **changes))
    ledger.settle(db, request_id, counts, outcome, ended_ms)


def pay(db, amount, at_ms, key, *, granted=False, currency="CNY"):
    move = ledger.grant if granted else ledger.top_up
    move(db, "acme", amount, currency, key, f"note {key}", at_ms, "root")


def november(db, tenant="acme", currency="CNY"):
    return ledger.statement(db, tenant, currency, FROM_MS, TO_MS)


def shown(statement) -> list[tuple]:
    return [
        (
            line.day[8:],
            line.transfer.kind if line.transfer else line.requests,
            line.granted_micro,
            line.topped_up_micro,
            (line.after.granted_micro, line.after.topped_up_micro),
        )
        for line in statement.lines
    ]


def test_every_movement_with_what_is_left_after_it(db):
    pay(db, 100_000, FROM_MS - 1, "october")
    pay(db, 5000, FROM_MS, "gift", granted=True)
    run(db, "one")
    run(db, "two")
    pay(db, 1000, NOON_MS + 5, "more")
    run(db, "three")
    run(db, "next day", ended_ms=NOON_MS + DAY_MS)
    ledger.refund(db, "acme", 700, "CNY", "back", "", TO_MS - 1, "root")
    ledger.adjust(db, "acme", -30, "CNY", "fix", "", TO_MS - 1, "root")
    run(db, "december", ended_ms=TO_MS)
    statement = november(db)
    assert (statement.tenant_id, statement.currency) == ("acme", "CNY")
    assert (statement.from_ms, statement.to_ms) == (FROM_MS, TO_MS)
    assert statement.opening == Purses(0, 100_000)
    assert shown(statement) == [
        ("01", "grant", 5000, 0, (5000, 100_000)),
        ("24", 2, -5000, -2600, (0, 97_400)),
        ("24", "top_up", 0, 1000, (0, 98_400)),
        ("24", 1, 0, -3800, (0, 94_600)),
        ("25", 1, 0, -3800, (0, 90_800)),
        ("30", "refund", 0, -700, (0, 90_100)),
        ("30", "adjust", 0, -30, (0, 90_070)),
    ]
    assert statement.lines[0].transfer.note == "note gift"
    assert statement.closing == Purses(0, 90_070)
    assert statement.closing.total_micro == 90_070
    assert statement.charged_micro == 4 * 3800
    december = ledger.statement(db, "acme", "CNY", TO_MS, TO_MS + DAY_MS)
    assert december.opening == statement.closing
    assert december.closing == Purses(0, 90_070 - 3800)
    assert statements.purses_at(db, "acme", "CNY", TO_MS + DAY_MS) == december.closing


def test_a_statement_opens_with_both_purses(db):
    pay(db, 700, FROM_MS - 2, "gift", granted=True)
    pay(db, 50, FROM_MS - 1, "money")
    assert november(db).opening == november(db).closing == Purses(700, 50)


def test_what_was_used_by_rule(db):
    pay(db, 1_000_000, FROM_MS, "money")
    free = quote(rule_id="free", free=allowance(output=150))
    half = quote(rule_id="half", denominator=2)
    run(db, "one", quote=free)
    run(db, "two", quote=free)
    run(db, "batch", quote=half, is_batch=True, counts=Counts(prompt_tokens=3))
    run(db, "other model", model="b1", counts=Counts(completion_tokens=2))
    run(db, "failed", outcome="error")
    run(db, "nothing", quote=None, worst_micro=0)
    first, second, third = november(db).rules
    assert (first.model, first.requests, first.micro) == ("b1", 1, 32)
    assert first.kinds == {"output": KindSum(2, 0, 16_000_000, 32_000_000)}
    assert (second.model, second.quote.rule_id, second.requests) == ("r1", "free", 2)
    assert second.kinds == {
        "hit": KindSum(1200, 0, 1_000_000, 1_200_000_000),
        "miss": KindSum(800, 0, 4_000_000, 3_200_000_000),
        "output": KindSum(200, 150, 16_000_000, 50 * 16_000_000),
    }
    assert second.micro == 2 * (600 + 1600) + 50 * 16
    assert sum(kind.numerator for kind in second.kinds.values()) == second.micro * 10**6
    assert (third.quote.rule_id, third.is_batch, third.micro) == ("half", True, 6)
    assert third.denominator == 2_000_000
    assert (first.is_batch, first.denominator) == (False, 1_000_000)


def test_failed_and_open_requests_are_counted(db):
    pay(db, 1_000_000, FROM_MS, "money")
    run(db, "failed", outcome="error")
    run(db, "restarted", outcome="restart", ended_ms=TO_MS)
    ledger.reserve(db, reservation("open"))
    ledger.reserve(db, reservation("later", at_ms=TO_MS))
    run(db, "failed again", outcome="error")
    statement = november(db)
    assert (statement.uncharged, statement.open_requests) == (2, 1)
    assert len(statement.lines) == 1
    assert statement.rules == []


def test_accepted_answers_are_on_it(db):
    pay(db, 1_000_000, FROM_MS, "money")
    by_result = quote(rule_id="judged", result_micro=2000, accept_seconds=10**6)
    for name in ("yes", "also", "no", "late"):
        run(db, name, quote=by_result, worst_micro=9000, counts=Counts(prompt_tokens=1))
    ledger.accept(db, "yes", True, NOON_MS + 1)
    ledger.accept(db, "also", True, NOON_MS + DAY_MS)
    ledger.accept(db, "no", False, NOON_MS + 1)
    ledger.accept(db, "late", True, TO_MS)
    statement = november(db)
    [rule] = statement.rules
    assert (rule.requests, rule.micro, rule.results, rule.results_micro) == (4, 16, 2, 4000)
    assert statement.charged_micro == 4016
    assert shown(statement)[1:] == [
        ("24", 4, 0, -2016, (0, 997_984)),
        ("25", 0, 0, -2000, (0, 995_984)),
    ]
    december = ledger.statement(db, "acme", "CNY", TO_MS, TO_MS + DAY_MS)
    [rule] = december.rules
    assert (rule.requests, rule.results, rule.is_batch) == (0, 1, False)


def test_accepted_answers_of_batches_are_those_of_their_rule(db):
    pay(db, 1_000_000, FROM_MS, "money")
    by_result = quote(rule_id="judged", result_micro=2000, accept_seconds=10**6)
    run(db, "batch", quote=by_result, is_batch=True, worst_micro=9000)
    ledger.accept(db, "batch", True, NOON_MS + 1)
    [rule] = november(db).rules
    assert (rule.is_batch, rule.requests, rule.results) == (True, 1, 1)


def test_currencies_and_tenants_have_statements_of_their_own(db):
    pay(db, 100_000, FROM_MS, "yuan")
    pay(db, 90_000, FROM_MS, "dollars", currency="USD")
    run(db, "yuan")
    run(db, "dollars", quote=quote(currency="USD"))
    run(db, "failed", quote=quote(currency="USD"), outcome="error")
    yuan, dollars = november(db), november(db, currency="USD")
    assert (yuan.closing.total_micro, dollars.closing.total_micro) == (96_200, 86_200)
    assert (len(yuan.lines), len(dollars.lines)) == (2, 2)
    assert (yuan.uncharged, dollars.uncharged) == (0, 1)
    empty = november(db, tenant="zeta")
    assert (empty.lines, empty.rules, empty.opening, empty.closing) == ([], [], Purses(), Purses())


def test_entries_are_read_in_pages(db, monkeypatch):
    pay(db, 100_000, FROM_MS, "money")
    for n in range(5):
        run(db, f"request {n}", ended_ms=NOON_MS + n * DAY_MS)
    whole = november(db)
    for size in (1, 2, 3, 6, 7):
        monkeypatch.setattr(statements, "PAGE_ROWS", size)
        assert november(db) == whole
    assert len(whole.lines) == 6
