"""Answers that are paid for when they are accepted."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, database, give, money, quote, reservation
from tribody.billing import ledger
from tribody.billing.results import Decided, accept_of
from tribody.core.principal import Limits

ENDED_MS = NOON_MS + 1000
UNTIL_MS = ENDED_MS + 60_000
BY_RESULT = quote(hit=0, miss=0, output=10_000_000, result_micro=2000, accept_seconds=60)


@pytest.fixture
def db():
    opened = database()
    give(opened, granted=2500, topped_up=5000)
    with opened.transaction():
        ledger.reserve(opened, reservation(quote=BY_RESULT))
        assert ledger.settle(opened, "one", COUNTS, "finished", ENDED_MS).micro == 1000
    yield opened
    opened.close()


def decide(db, accepted, at_ms=ENDED_MS + 1, request_id="one"):
    with db.transaction():
        return ledger.accept(db, request_id, accepted, at_ms)


def held_and_used(db) -> set[tuple]:
    return set(db.rows("SELECT micro, held_micro FROM totals"))


def test_until_it_is_decided_the_price_is_held(db):
    assert money(db) == (1500, 5000, 2000)
    assert held_and_used(db) == {(1000, 2000)}
    with pytest.raises(ledger.CapReached), db.transaction():
        ledger.reserve(db, reservation("2", worst_micro=1, key_limits=Limits(micro_per_day=3000)))


def test_an_accepted_answer_is_paid_for(db):
    decided = decide(db, True)
    assert decided == Decided(
        settled=4, decision="accept", currency="CNY", micro=2000, granted_micro=1500
    )
    assert money(db) == (0, 4500, 0)
    assert held_and_used(db) == {(3000, 0)}
    assert db.rows("SELECT micro FROM balances WHERE account = 'income/r1'") == [(3000,)]
    assert db.rows("SELECT kind, at_ms, request_id FROM entries WHERE sequence = 5") == [
        ("accept", ENDED_MS + 1, "one")
    ]


def test_a_declined_answer_is_not(db):
    decided = decide(db, False)
    assert (decided.decision, decided.micro) == ("decline", 0)
    assert money(db) == (1500, 5000, 0)
    assert held_and_used(db) == {(1000, 0)}


@pytest.mark.parametrize("first", [True, False])
def test_the_first_decision_stands(db, first):
    decided = decide(db, first)
    after = money(db)
    assert decide(db, not first, at_ms=UNTIL_MS + 1) == decided
    assert decide(db, first) == decided
    assert money(db) == after
    assert db.rows("SELECT count(*) FROM entries") == [(5,)]


def test_the_last_moment_is_in_time_and_the_next_is_not(db):
    with db.transaction():
        assert ledger.expire_results(db, UNTIL_MS) == 0
    assert decide(db, True, at_ms=UNTIL_MS).decision == "accept"


def test_too_late_is_not_accepted(db):
    assert decide(db, True, at_ms=UNTIL_MS + 1).decision == "expire"
    assert money(db) == (1500, 5000, 0)


def test_what_nobody_decided_is_let_go_of(db):
    with db.transaction():
        assert ledger.expire_results(db, UNTIL_MS + 1) == 1
        assert ledger.expire_results(db, UNTIL_MS + 2) == 0
    assert money(db) == (1500, 5000, 0)
    assert decide(db, True).decision == "expire"


def test_only_finished_answers_can_be_accepted(db):
    give(db, topped_up=10_000, key="more")
    for outcome in ("disconnect", "timeout", "error"):
        with db.transaction():
            ledger.reserve(db, reservation(outcome, quote=BY_RESULT, worst_micro=3000))
            charge = ledger.settle(db, outcome, COUNTS, outcome, ENDED_MS)
        assert (charge.result_micro, charge.result_until_ms) == (0, 0)
        with pytest.raises(ledger.UnknownRequest, match="no answer to be accepted of the request"):
            decide(db, True, request_id=outcome)
    with pytest.raises(ledger.UnknownRequest):
        decide(db, True, request_id="never heard of")
    assert money(db)[2] == 2000


def test_the_charge_says_until_when(db):
    with db.transaction():
        charge = ledger.settle(db, "one", COUNTS, "finished", 0)
    assert (charge.result_micro, charge.result_until_ms) == (2000, UNTIL_MS)


def test_an_answer_is_decided_by_its_own_tenant_only(db):
    with pytest.raises(ledger.UnknownRequest, match=r"answer to be accepted of .*'one'"):
        accept_of(db, "zeta", "one", True, ENDED_MS + 1)
    with pytest.raises(ledger.UnknownRequest, match=r"answer to be accepted of .*'two'"):
        accept_of(db, "acme", "two", True, ENDED_MS + 1)
    with db.transaction():
        decided = accept_of(db, "acme", "one", False, ENDED_MS + 1)
    assert decided.decision == "decline"
    with db.transaction():
        assert accept_of(db, "acme", "one", False, ENDED_MS + 2) == decided
        ledger.reserve(db, reservation("two", quote=BY_RESULT))
        ledger.settle(db, "two", COUNTS, "finished", ENDED_MS)
        assert accept_of(db, "acme", "two", True, ENDED_MS + 3).decision == "accept"
    rows = db.rows("SELECT request_id, accepted FROM results ORDER BY request_id")
    assert rows == [("one", 0), ("two", 1)]
