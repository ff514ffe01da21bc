"""What was written is read back: entries page by page, one transfer, price lists."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, database, give, reservation
from tests.billing.test_ledger_tariffs import PLAIN
from tribody.billing import ledger
from tribody.billing.entries import currency_sums
from tribody.billing.entry_pages import WrittenEntry, written_entries
from tribody.billing.reservations import num_open_reservations
from tribody.billing.tariff_store import TariffUse, tariff_uses
from tribody.billing.transfers import Transfer, transfer_of


@pytest.fixture
def db():
    opened = database()
    give(opened, granted=10, topped_up=9000)  # entries 1 and 2
    give(opened, topped_up=500, tenant="zeta")  # 3
    with opened.transaction():
        ledger.reserve(opened, reservation())  # 4
        ledger.settle(opened, "one", COUNTS, "finished", NOON_MS + 7)  # 5
    yield opened
    opened.close()


def numbers(entries: list[WrittenEntry]) -> list[int]:
    return [entry.sequence for entry in entries]


def test_entries_are_read_as_they_were_written(db):
    entries = written_entries(db, most=100)
    assert numbers(entries) == [1, 2, 3, 4, 5]
    for entry in entries:
        row = (entry.kind, entry.at_ms, entry.tenant_id, entry.request_id, entry.detail, entry.hash)
        assert db.rows(
            "SELECT kind, at_ms, tenant_id, request_id, detail, hash FROM entries "
            "WHERE sequence = ?",
            (entry.sequence,),
        ) == [row]
    assert [list(posting) for posting in entries[2].postings] == [
        ["tenant/zeta/topped_up", "CNY", 500],
        ["cash", "CNY", -500],
    ]
    lines = db.rows("SELECT account, currency, micro FROM postings ORDER BY sequence, line")
    assert [tuple(posting) for entry in entries for posting in entry.postings] == lines


def test_an_entry_without_postings_has_none(db):
    with db.transaction():
        ledger.use_tariff(db, PLAIN, NOON_MS, "root")
    (entry,) = written_entries(db, after=5, most=100)
    assert (entry.kind, entry.postings) == ("tariff", [])


def test_entries_are_chosen(db):
    assert numbers(written_entries(db, most=2)) == [1, 2]
    assert numbers(written_entries(db, most=2, after=2)) == [3, 4]
    assert numbers(written_entries(db, most=9, tenant_id="zeta")) == [3]
    assert numbers(written_entries(db, most=9, tenant_id="")) == []
    assert numbers(written_entries(db, most=9, kind="top_up")) == [2, 3]
    assert numbers(written_entries(db, most=9, kind="top_up", tenant_id="acme")) == [2]
    assert numbers(written_entries(db, most=9, kind="reserve", after=4)) == []


def test_a_page_of_many_entries_has_all_their_postings(db):
    for number in range(510):
        give(db, topped_up=1 + number, key=f"more {number}")
    entries = written_entries(db, after=5, most=1000)
    assert [entry.postings[0].micro for entry in entries] == list(range(1, 511))
    assert {len(entry.postings) for entry in entries} == {2}


def test_one_transfer_is_read_back(db):
    assert transfer_of(db, 3) == Transfer(
        kind="top_up",
        tenant_id="zeta",
        amount_micro=500,
        currency="CNY",
        idempotency_key="first money",
        note="wire",
        at_ms=NOON_MS,
        who="test",
    )


def test_price_lists_that_were_in_use(db):
    assert tariff_uses(db) == []
    other = PLAIN.replace("Plain", "Other")
    with db.transaction():
        first = ledger.use_tariff(db, PLAIN, NOON_MS, "ann")
        second = ledger.use_tariff(db, other, NOON_MS + 1, "bob")
        ledger.use_tariff(db, PLAIN, NOON_MS + 2, "eve")
    assert tariff_uses(db) == [
        TariffUse(digest=first.digest, who="ann", at_ms=NOON_MS),
        TariffUse(digest=second.digest, who="bob", at_ms=NOON_MS + 1),
        TariffUse(digest=first.digest, who="eve", at_ms=NOON_MS + 2),
    ]


def test_what_a_scrape_asks(db):
    """Accounts come to 0 while money is held too; one that was spoilt shows."""
    assert (currency_sums(db), num_open_reservations(db)) == ({"CNY": 0}, 0)
    with db.transaction():
        ledger.reserve(db, reservation("two"))
    assert (currency_sums(db), num_open_reservations(db)) == ({"CNY": 0}, 1)
    with db.transaction():
        ledger.top_up(db, "acme", 3, "USD", "dollars", "", NOON_MS, "test")
    db.run("UPDATE balances SET micro = micro - 7 WHERE account = 'cash' AND currency = 'CNY'")
    assert currency_sums(db) == {"CNY": -7, "USD": 0}
