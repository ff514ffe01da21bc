"""Reserve, settle, recover: what one request does to the books."""

from __future__ import annotations

import msgspec
import pytest

from tests.billing.ledger_cases import (
    COST,
    COUNTS,
    NOON_MS,
    QUOTE,
    YUAN,
    allowance,
    database,
    give,
    money,
    quote,
    reservation,
    usage,
)
from tribody.billing import ledger
from tribody.billing.entries import MAX_BALANCE
from tribody.billing.money import MAX_MICRO
from tribody.billing.pricing import FreeUsed, priced
from tribody.billing.reservations import MAX_TOKENS
from tribody.core.metering import Counts
from tribody.core.principal import Limits


@pytest.fixture
def db():
    opened = database()
    give(opened, granted=3000, topped_up=10_000)
    yield opened
    opened.close()


def reserve(db, request_id="one", **changes):
    with db.transaction():
        ledger.reserve(db, reservation(request_id, **changes))


def settle(db, request_id="one", counts=COUNTS, outcome="finished", ended_ms=NOON_MS + 9):
    with db.transaction():
        return ledger.settle(db, request_id, counts, outcome, ended_ms)


def accounts(db) -> dict[str, int]:
    return dict(db.rows("SELECT account, micro FROM balances WHERE micro <> 0"))


def count(db, table: str) -> int:
    return db.rows(f"SELECT count(*) FROM {table}")[0][0]


def test_the_worst_is_held_and_the_rest_let_go_of(db):
    reserve(db)
    assert money(db) == (3000, 10_000, 5000)
    charge = settle(db)
    assert charge.micro == COST == 3800
    assert money(db) == (0, 9200, 0)
    assert accounts(db) == {
        "cash": -10_000,
        "promotions": -3000,
        "income/r1": 3800,
        "tenant/acme/topped_up": 9200,
    }


def test_the_charge_says_how_it_came_about(db):
    reserve(db)
    charge = settle(db)
    assert charge == ledger.Charge(
        request_id="one",
        tenant_id="acme",
        outcome="finished",
        counts=COUNTS,
        quote=QUOTE,
        priced=priced(QUOTE, COUNTS),
        currency="CNY",
        micro=3800,
        granted_micro=3000,
    )
    [row] = db.rows("SELECT * FROM usage")
    assert row == (
        *(4, "one", "acme", "ann", "key-1", "r1", "chat", 1, 0, NOON_MS, NOON_MS + 9),
        *(1000, 600, 100, 40, "finished", "CNY", 3800, "d" * 64, "r1"),
    )
    [entry] = db.rows("SELECT kind, at_ms, tenant_id, request_id FROM entries WHERE sequence = 4")
    assert entry == ("settle", NOON_MS + 9, "acme", "one")
    [entry] = db.rows("SELECT kind, at_ms, tenant_id, request_id FROM entries WHERE sequence = 3")
    assert entry == ("reserve", NOON_MS, "acme", "one")


def test_settling_again_changes_nothing(db):
    reserve(db)
    first = settle(db)
    before = accounts(db), count(db, "entries")
    assert settle(db) == first
    assert settle(db, counts=Counts(prompt_tokens=9), outcome="error", ended_ms=7) == first
    assert (accounts(db), count(db, "entries")) == before


def test_granted_money_goes_first_whatever_is_held(db):
    """A hold takes nothing, so a request that is still open keeps no granted money from others."""
    reserve(db, "one")
    reserve(db, "two")
    assert settle(db, "two").granted_micro == 3000
    assert money(db) == (0, 9200, 5000)
    give(db, granted=100, key="second")
    assert settle(db, "one").granted_micro == 100
    assert money(db) == (0, 5500, 0)


@pytest.mark.parametrize("outcome", ["finished", "disconnect", "timeout"])
def test_what_the_caller_ended_is_charged_as_counted(db, outcome):
    reserve(db)
    charge = settle(db, counts=Counts(prompt_tokens=10), outcome=outcome)
    assert (charge.micro, charge.outcome) == (40, outcome)
    assert money(db) == (2960, 10_000, 0)
    assert ledger.state_of(db, "one") == outcome


@pytest.mark.parametrize("outcome", ["error", "restart", "drain", "refused"])
def test_what_we_ended_is_recorded_and_free(db, outcome):
    reserve(db, quote=quote(free=allowance(miss=100)))
    charge = settle(db, outcome=outcome)
    assert (charge.micro, charge.priced, charge.counts) == (0, None, COUNTS)
    assert money(db) == (3000, 10_000, 0)
    assert count(db, "free_used") == 0
    [row] = db.rows("SELECT prompt_tokens, completion_tokens, outcome, charged_micro FROM usage")
    assert row == (1000, 100, outcome, 0)
    assert ledger.state_of(db, "one") == outcome


def test_a_charge_is_not_limited_by_what_was_held(db):
    reserve(db, worst_micro=1)
    assert settle(db, counts=Counts(completion_tokens=1000)).micro == 16_000
    assert money(db) == (0, -3000, 0)


def test_without_money_nothing_begins(db):
    reserve(db, "one", worst_micro=13_000)
    with pytest.raises(ledger.NoBalance, match="1 micro-CNY are needed and 0 are available") as no:
        reserve(db, "two", worst_micro=1)
    assert (no.value.needed_micro, no.value.available_micro, no.value.currency) == (1, 0, "CNY")
    assert ledger.state_of(db, "two") is None
    with pytest.raises(ledger.NoBalance):
        reserve(db, "dollars", worst_micro=1, quote=quote(currency="USD"))
    reserve(db, "free", worst_micro=0)
    settle(db, "one", counts=Counts())
    reserve(db, "two", worst_micro=13_000)


def test_credit_is_money_that_may_be_owed(db):
    with pytest.raises(ledger.NoBalance):
        reserve(db, worst_micro=13_501, credit_micro=500)
    reserve(db, worst_micro=13_500, credit_micro=500)
    settle(db, counts=Counts(completion_tokens=840))
    assert money(db) == (0, -440, 0)
    with pytest.raises(ledger.NoBalance):
        reserve(db, "two", worst_micro=61, credit_micro=500)
    reserve(db, "two", worst_micro=60, credit_micro=500)
    reserve(db, "free", worst_micro=0)


def test_one_request_is_admitted_once(db):
    reserve(db)
    with pytest.raises(ledger.AlreadyReserved, match=r"as one \(open\)") as again:
        reserve(db)
    assert (again.value.request_id, again.value.state) == ("one", "open")
    settle(db, outcome="error")
    with pytest.raises(ledger.AlreadyReserved) as again:
        reserve(db)
    assert again.value.state == "error"
    assert count(db, "entries") == 4


def test_an_idempotency_key_stands_for_one_request(db):
    give(db, topped_up=10_000, key="more")
    key = {"idempotency_key": "k", "body_digest": "b"}
    reserve(db, "one", **key)
    with pytest.raises(ledger.AlreadyReserved) as again:
        reserve(db, "two", **key)
    assert (again.value.request_id, again.value.state) == ("one", "open")
    with pytest.raises(ledger.IdempotencyConflict, match="'k' was used for another body"):
        reserve(db, "two", idempotency_key="k", body_digest="other")
    settle(db, "one", outcome="disconnect")
    with pytest.raises(ledger.AlreadyReserved) as again:
        reserve(db, "two", **key)
    assert (again.value.request_id, again.value.state) == ("one", "disconnect")
    reserve(db, "other key", idempotency_key="k2", body_digest="b")
    give(db, topped_up=5000, tenant="zeta")
    reserve(db, "other tenant", tenant_id="zeta", idempotency_key="k", body_digest="other")


@pytest.mark.parametrize("outcome", ["error", "restart", "drain", "refused", "timeout"])
def test_after_our_failure_the_key_may_be_used_again(db, outcome):
    key = {"idempotency_key": "k", "body_digest": "b"}
    reserve(db, "one", **key)
    settle(db, "one", outcome=outcome)
    with pytest.raises(ledger.IdempotencyConflict):
        reserve(db, "two", idempotency_key="k", body_digest="other")
    reserve(db, "two", **key)
    with pytest.raises(ledger.AlreadyReserved) as again:
        reserve(db, "three", **key)
    assert again.value.request_id == "two"


def test_a_refused_request_does_not_use_its_key_up(db):
    key = {"idempotency_key": "k", "body_digest": "b"}
    with pytest.raises(ledger.NoBalance):
        reserve(db, worst_micro=99_999, **key)
    reserve(db, **key)


def test_what_was_never_reserved_is_not_settled(db):
    with pytest.raises(ledger.UnknownRequest, match="no reservation of the request 'one'"):
        settle(db)
    with db.transaction():
        ledger.record(db, usage("recorded"))
    with pytest.raises(ledger.UnknownRequest):
        settle(db, "recorded")


def test_counts_that_contradict_themselves_are_refused(db):
    reserve(db)
    with pytest.raises(ValueError, match="impossible counts"):
        settle(db, counts=Counts(prompt_tokens=1, cached_tokens=2))
    assert ledger.state_of(db, "one") == "open"


@pytest.mark.parametrize(
    ("field", "most"),
    [("worst_micro", MAX_MICRO), ("worst_tokens", MAX_TOKENS), ("credit_micro", MAX_MICRO)],
)
def test_impossible_amounts_are_refused(db, field, most):
    for amount in (-1, most + 1, 2**63, -(2**63) - 1):
        with pytest.raises(ledger.AmountRefused, match=f"{field} is {amount}; .* from 0 to {most}"):
            reserve(db, **{field: amount})
    give(db, topped_up=MAX_MICRO, key="much")
    reserve(db, **{field: most})


def test_money_without_a_quote_is_refused(db):
    with pytest.raises(ledger.AmountRefused, match="needs a quote"):
        reserve(db, quote=None)


def test_without_a_quote_tokens_are_held_and_counted_but_not_charged(db):
    limits = Limits(tokens_per_day=2000)
    reserve(db, quote=None, worst_micro=0, tenant_limits=limits)
    with pytest.raises(ledger.CapReached):
        reserve(db, "two", quote=None, worst_micro=0, tenant_limits=limits)
    charge = settle(db)
    assert (charge.micro, charge.currency, charge.quote) == (0, "", None)
    assert money(db) == (3000, 10_000, 0)
    reserve(db, "two", quote=None, worst_micro=0, worst_tokens=900, tenant_limits=limits)
    with pytest.raises(ledger.CapReached):
        reserve(db, "three", quote=None, worst_micro=0, worst_tokens=1, tenant_limits=limits)


def test_free_tokens_are_used_up_once(db):
    give(db, topped_up=10_000, key="more")
    november = allowance(hit=700, output=50)
    december = msgspec.structs.replace(november, period="2025-12")
    free = quote(free=november)
    reserve(db, "one", quote=free)
    reserve(db, "two", quote=free)
    reserve(db, "three", quote=quote(free=november, rule_id="later"))
    reserve(db, "december", quote=quote(free=december))
    assert settle(db, "one").micro == 0 * 600 + 400 * 4 + 50 * 16
    charge = settle(db, "two")
    assert charge.free_used == FreeUsed(hit=600, output=50)
    assert charge.micro == 500 * 1 + 400 * 4 + 100 * 16
    assert settle(db, "three").micro == COST
    assert settle(db, "december").micro == 0 * 600 + 400 * 4 + 50 * 16
    assert db.rows("SELECT * FROM free_used ORDER BY period") == [
        ("acme", "welcome", "2025-11", 700, 0, 50, 0),
        ("acme", "welcome", "2025-12", 600, 0, 50, 0),
    ]


def test_reasoning_and_missed_tokens_have_allowances_too(db):
    free = quote(reasoning=20 * YUAN, free=allowance(miss=300, reasoning=30))
    reserve(db, quote=free)
    assert settle(db).micro == 600 + 100 * 4 + 60 * 16 + 10 * 20
    assert db.rows("SELECT hit, miss, output, reasoning FROM free_used") == [(0, 300, 0, 30)]
    reserve(db, "two", quote=free)
    assert settle(db, "two").micro == 600 + 400 * 4 + 60 * 16 + 40 * 20
    assert db.rows("SELECT hit, miss, output, reasoning FROM free_used") == [(0, 300, 0, 30)]


def test_a_node_that_starts_again_ends_what_it_had_left_open(db):
    give(db, topped_up=10_000, key="more")
    reserve(db, "one")
    reserve(db, "two")
    reserve(db, "three", node_id="other node")
    reserve(db, "done")
    settle(db, "done", counts=Counts())
    assert [r.request_id for r in ledger.open_reservations(db)] == ["one", "two", "three"]
    with db.transaction():
        assert ledger.recover(db, "node", NOON_MS + 99) == 2
    assert [r.request_id for r in ledger.open_reservations(db)] == ["three"]
    assert [ledger.state_of(db, name) for name in ("one", "two", "three", "done")] == [
        "restart",
        "restart",
        "open",
        "finished",
    ]
    assert money(db) == (3000, 20_000, 5000)
    assert (
        db.rows("SELECT ended_ms, prompt_tokens FROM usage WHERE outcome = 'restart'")
        == [(NOON_MS + 99, 0)] * 2
    )
    with db.transaction():
        assert ledger.recover(db, "node", NOON_MS + 100) == 0


def test_open_reservations_are_listed_as_they_were_made(db):
    reserve(db, "z")
    reserve(db, "a", node_id="other node")
    assert ledger.open_reservations(db) == [
        reservation("z"),
        reservation("a", node_id="other node"),
    ]
    assert ledger.open_reservations(db, "other node") == [reservation("a", node_id="other node")]
    assert ledger.open_reservations(db, "third") == []


def test_without_accounts_usage_is_recorded_once(db):
    with db.transaction():
        ledger.record(db, usage())
        ledger.record(db, usage(counts=Counts(prompt_tokens=1)))
    [row] = db.rows("SELECT request_id, prompt_tokens, currency, charged_micro FROM usage")
    assert row == ("one", 1000, "", 0)
    assert db.rows("SELECT kind, at_ms, detail FROM entries WHERE request_id = 'one'") == [
        ("usage", NOON_MS + 5000, "{}")
    ]
    assert db.rows("SELECT DISTINCT currency FROM totals") == [("",)]
    assert ledger.state_of(db, "one") == "finished"
    assert db.rows("SELECT scope, period, tokens FROM totals ORDER BY scope, period") == [
        ("tenant/local", "2025-11", 1100),
        ("tenant/local", "2025-11-24", 1100),
        ("tenant/local/key/none", "2025-11", 1100),
        ("tenant/local/key/none", "2025-11-24", 1100),
    ]
    with db.transaction():
        ledger.record(db, usage("two", outcome="error"))
    assert db.rows("SELECT max(tokens) FROM totals") == [(1100,)]


def test_writing_needs_a_transaction(db):
    with pytest.raises(AssertionError, match="inside a transaction"):
        ledger.reserve(db, reservation())
    assert count(db, "entries") == 2


def test_an_account_that_is_full_is_said_to_be(db):
    db.run("UPDATE balances SET micro = ? WHERE account = 'income/r1'", (0,))
    db.run("INSERT INTO balances VALUES ('income/r1', 'CNY', ?)", (MAX_BALANCE - 3799,))
    reserve(db)
    with pytest.raises(ledger.AmountRefused, match=r"account income/r1 would come to 92233720368"):
        settle(db)
    assert ledger.state_of(db, "one") == "open"
    assert money(db) == (3000, 10_000, 5000)
    db.run("UPDATE balances SET micro = ? WHERE account = 'income/r1'", (MAX_BALANCE - 3800,))
    assert settle(db).micro == 3800
