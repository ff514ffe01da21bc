"""Money without a request: once for each key, within limits, out of the right purse."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import NOON_MS, database, give, money, reservation
from tribody.billing import ledger
from tribody.billing.money import MAX_MICRO

KINDS = {
    "top_up": ledger.top_up,
    "grant": ledger.grant,
    "refund": ledger.refund,
    "adjust": ledger.adjust,
}


@pytest.fixture
def db():
    opened = database()
    yield opened
    opened.close()


def move(db, kind, amount, currency="CNY", key="k", tenant="acme", **more):
    with db.transaction():
        return KINDS[kind](db, tenant, amount, currency, key, "note", NOON_MS, "root", **more)


def entries(db) -> list[tuple]:
    return db.rows("SELECT kind, at_ms, tenant_id, request_id, detail FROM entries")


def postings(db) -> list[tuple]:
    return db.rows("SELECT account, currency, micro FROM postings ORDER BY sequence, line")


def test_money_paid_in(db):
    assert move(db, "top_up", 500) == 1
    assert move(db, "top_up", 70, key="k2") == 2
    assert money(db) == (0, 570, 0)
    assert postings(db)[:2] == [("tenant/acme/topped_up", "CNY", 500), ("cash", "CNY", -500)]
    kind, at_ms, tenant, request, detail = entries(db)[0]
    assert (kind, at_ms, tenant, request) == ("top_up", NOON_MS, "acme", "")
    assert '"idempotency_key":"k","note":"note"' in detail
    assert '"who":"root"' in detail


def test_money_granted(db):
    move(db, "grant", 500)
    assert money(db) == (500, 0, 0)
    assert postings(db) == [("tenant/acme/granted", "CNY", 500), ("promotions", "CNY", -500)]


def test_money_paid_back_is_what_was_paid_and_is_free(db):
    give(db, granted=1000, topped_up=300)
    with pytest.raises(ledger.NoBalance, match="301 micro-CNY are needed and 300 are available"):
        move(db, "refund", 301)
    move(db, "refund", 100)
    assert money(db) == (1000, 200, 0)
    assert postings(db)[-2:] == [("tenant/acme/topped_up", "CNY", -100), ("cash", "CNY", 100)]
    with db.transaction():
        ledger.reserve(db, reservation(worst_micro=1100))
    with pytest.raises(ledger.NoBalance, match="101 micro-CNY are needed and 100 are available"):
        move(db, "refund", 101, key="more")
    move(db, "refund", 100, key="more")
    assert money(db) == (1000, 100, 1100)


def test_corrections_go_up_and_down(db):
    give(db, granted=1000, topped_up=300)
    move(db, "adjust", 50, key="a")
    move(db, "adjust", -400, key="b")
    move(db, "adjust", 5, key="c", purse="granted")
    assert money(db) == (1005, -50, 0)
    assert postings(db)[-2:] == [("tenant/acme/granted", "CNY", 5), ("adjustments", "CNY", -5)]
    with pytest.raises(ledger.NoBalance, match="1006 micro-CNY are needed and 1005"):
        move(db, "adjust", -1006, key="d", purse="granted")
    move(db, "adjust", -1005, key="d", purse="granted")
    assert money(db) == (0, -50, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_is_one_effect(db, kind):
    give(db, granted=1000, topped_up=1000)
    first = move(db, kind, 10)
    after = money(db), len(entries(db))
    assert move(db, kind, 10) == first
    assert (money(db), len(entries(db))) == after
    with pytest.raises(ledger.IdempotencyConflict):
        move(db, kind, 11)
    with pytest.raises(ledger.IdempotencyConflict):
        move(db, kind, 10, currency="USD")
    for other in set(KINDS) - {kind}:
        with pytest.raises(ledger.IdempotencyConflict):
            move(db, other, 10)
    assert (money(db), len(entries(db))) == after


def test_keys_are_a_tenant_s_own_and_not_those_of_requests(db):
    give(db, topped_up=9000)
    with db.transaction():
        ledger.reserve(db, reservation(idempotency_key="k", body_digest="b"))
    assert move(db, "top_up", 10) < move(db, "top_up", 20, tenant="zeta")
    assert money(db, "zeta") == (0, 20, 0)


def test_the_purse_of_a_correction_is_part_of_what_the_key_means(db):
    give(db, granted=1000, topped_up=1000)
    move(db, "adjust", 10)
    with pytest.raises(ledger.IdempotencyConflict):
        move(db, "adjust", 10, purse="granted")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amount", [0, MAX_MICRO + 1, 2**63, 2**63 - 1, -(2**63) - 1])
def test_amounts_out_of_range_are_refused(db, kind, amount):
    with pytest.raises(ledger.AmountRefused, match=str(amount)):
        move(db, kind, amount)
    assert entries(db) == []


@pytest.mark.parametrize("kind", ["top_up", "grant", "refund"])
def test_negative_amounts_are_refused(db, kind):
    with pytest.raises(ledger.AmountRefused, match="is -1 micro-units; it has to be above 0"):
        move(db, kind, -1)


def test_the_largest_amounts_pass(db):
    move(db, "top_up", MAX_MICRO)
    move(db, "adjust", -MAX_MICRO, key="k2")
    assert money(db) == (0, 0, 0)


@pytest.mark.parametrize("currency", ["", "cny", "EUR"])
def test_unknown_currencies_are_refused(db, currency):
    with pytest.raises(ledger.AmountRefused, match="CNY, USD"):
        move(db, "top_up", 1, currency=currency)


def test_currencies_do_not_mix(db):
    move(db, "top_up", 10, currency="USD")
    move(db, "grant", 20, key="k2")
    move(db, "grant", 5, currency="USD", key="k3")
    first, second = ledger.balances(db, "acme")
    assert (first.currency, first.granted_micro, first.topped_up_micro) == ("CNY", 20, 0)
    assert (second.currency, second.granted_micro, second.topped_up_micro) == ("USD", 5, 10)
    assert (first.available_micro, second.available_micro, second.held_micro) == (20, 15, 0)
    assert ledger.balances(db, "zeta") == []


def test_what_is_available_is_what_is_not_held(db):
    give(db, granted=1000, topped_up=9000)
    with db.transaction():
        ledger.reserve(db, reservation(worst_micro=2500))
    [balance] = ledger.balances(db, "acme")
    assert balance.available_micro == 7500
