"""`tribody ledger`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import apsw
import pytest

from tests.billing.ledger_cases import COST, COUNTS, NOON_MS, reservation
from tests.cli.conftest import Desk
from tribody.billing import ledger
from tribody.billing.pricing import Quote
from tribody.billing.tariffs import Tariff, shipped
from tribody.core.metering import Counts
from tribody.storage.opening import open_database

JULY_MS = 1_784_000_000_000  # 2026-07-14 in Shanghai
MANY = Counts(prompt_tokens=3_000_000)  # of which the list gives a million free
NOVEMBER = ("--month", "2025-11")


def test_money_comes_and_goes(acme: Desk) -> None:
    assert (
        "now granted 0.003, topped up 8.00, held 0.00" in acme("ledger", "refund", "acme", "2").out
    )
    assert "topped up 7.50" in acme("ledger", "adjust", "acme", "-0.5", "--note", "goodwill").out
    assert (
        "granted 0.001"
        in acme("ledger", "adjust", "acme", "-0.002", "--granted", "--note", "expired").out
    )
    (view,) = acme("ledger", "balance", "--json").json
    assert view["tenant_id"] == "acme"
    assert view["balances"] == [
        {
            "currency": "CNY",
            "granted_micro": 1000,
            "topped_up_micro": 7_500_000,
            "held_micro": 0,
        }
    ]
    shown = acme("ledger", "balance", "acme").out
    assert "7.501" in shown


def test_an_idempotency_key_is_one_effect(acme: Desk) -> None:
    words = ("ledger", "top-up", "acme", "5", "--idempotency-key", "invoice-17")
    first = acme(*words, "--json").json
    second = acme(*words, "--json").json
    assert (first["is_new"], second["is_new"]) == (True, False)
    assert first["sequence"] == second["sequence"]
    assert second["balance"]["topped_up_micro"] == 15_000_000
    assert "nothing has changed" in acme(*words).out
    other = acme("ledger", "top-up", "acme", "6", "--idempotency-key", "invoice-17", fails=True)
    assert other.code == 1
    assert "invoice-17" in other.err
    assert (
        acme("ledger", "balance", "--json").json[0]["balances"][0]["topped_up_micro"] == 15_000_000
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("top-up", "acme", "0"), "above 0"),
        (("top-up", "acme", "1.0000001"), "not an amount"),
        (("top-up", "acme", "1e3"), "not an amount"),
        (("top-up", "acme", "9999999999"), "above the limit"),
        (("top-up", "zeta", "1"), "no tenant 'zeta'"),
        (("top-up", "acme", "1", "--currency", "EUR"), "--currency 'EUR' is not one of CNY, USD"),
        (("top-up", "acme", "1", "--note", "x" * 201), "201 characters"),
        (("grant", "acme", "1", "--note", "a\nb"), "printable"),
        (("refund", "acme", "10.000001"), "available"),
        (("adjust", "acme", "1"), "--note is missing"),
        (("adjust", "acme", "-1", "--granted", "--note", "x"), "3000 are available"),
        (("export", "everything"), "choose usage or entries"),
        (("statement", "zeta"), "no tenant 'zeta'"),
        (("statement", "acme", "--month", "2025-13"), "not a month"),
        (("statement", "acme", "--month", "2025-11", "--from", "2025-11-01"), "in place of"),
        (("statement", "acme", "--from", "2025-11-02", "--to", "2025-11-01"), "swap them"),
        (("statement", "acme", "--to", "yesterday"), "not a day"),
        (("verify", "--known", "17"), "SEQUENCE:HASH"),
    ],
)
def test_what_is_refused(acme: Desk, words: tuple[str, ...], says: str) -> None:
    before = acme("ledger", "balance", "--json").out
    refused = acme("ledger", *words, fails=True)
    assert says in refused.err
    assert acme("ledger", "balance", "--json").out == before


def test_a_statement(acme: Desk) -> None:
    acme.ask("one")
    acme.ask("two", outcome="error")
    of = acme("ledger", "statement", "acme", *NOVEMBER, "--json").json
    assert of["uncharged"] == 1
    assert of["closing"]["topped_up_micro"] == -800
    shown = acme("ledger", "statement", "acme", *NOVEMBER).out
    assert "charged      0.0038" in shown
    assert "r1: hit 1 / miss 4 / output 16 CNY per million tokens" in shown
    assert "1 requests" in shown
    paid = acme("ledger", "statement", "acme").out
    assert "top-up: wire" in paid


@pytest.fixture
def priced(acme: Desk, tmp_path: Path) -> Quote:
    """By a list that is in use."""
    path = tmp_path / "prices.toml"
    path.write_text(shipped("start"))
    acme("tariff", "use", str(path))
    return Tariff.parse(shipped("start")).find(
        model="r1", tenant_id="acme", at_ms=JULY_MS, prompt_tokens=1000, is_batch=False
    )


def test_the_ledger_is_verified(acme: Desk, priced: Quote) -> None:
    acme.ask("one", MANY, quote=priced, at_ms=JULY_MS)
    right = acme("ledger", "verify")
    assert "5 entries, 1 requests, 1 charges" in right.out
    assert "all right" in right.out
    head = right.out.strip().splitlines()[-1].removeprefix("ends with ")
    acme.ask("two", quote=priced, at_ms=JULY_MS)
    assert acme("ledger", "verify", "--known", head, "--json").json["num_problems"] == 0
    sequence, _colon, digest = head.partition(":")
    other = f"{sequence}:{digest[1:]}{digest[0]}"
    wrong = acme("ledger", "verify", "--known", other, fails=True)
    assert wrong.code == 1
    assert "another than it once was" in wrong.out


def test_a_changed_charge_is_found(acme: Desk, priced: Quote) -> None:
    acme.ask("one", MANY, quote=priced, at_ms=JULY_MS)
    assert acme("ledger", "verify").code == 0
    connection = apsw.Connection(str(acme.folder / "accounts.db"))
    connection.execute("DROP TRIGGER usage_keep_update")
    connection.execute("UPDATE usage SET charged_micro = charged_micro - 1")
    connection.close()
    wrong = acme("ledger", "verify", fails=True)
    assert wrong.code == 1
    assert "wrong: " in wrong.out


def test_last_month_by_another_list(acme: Desk, tmp_path: Path) -> None:
    acme.ask("three", MANY, outcome="error")
    acme.ask("one", MANY)
    acme.record("two", counts=MANY)
    path = tmp_path / "new.toml"
    path.write_text(
        'currency = "CNY"\n[[rule]]\nid = "a"\nmodels = ["r1"]\nhit = 1\nmiss = 3\noutput = 9\n'
    )
    words = ("ledger", "replay", "--tariff", str(path), *NOVEMBER)
    rows = acme(*words, "--json").json
    assert [
        (r["tenant"], r["requests"], r["charged_micro"], r["replayed_micro"]) for r in rows
    ] == [
        ("acme", 1, 12_000_000, 9_000_000),
        ("local", 1, 0, 9_000_000),
    ]
    assert "-3.00" in acme(*words, "--tenant", "acme").out
    acme.record("four", model="v9")
    unpriced = acme(*words, fails=True)
    assert unpriced.code == 1
    assert "1 requests of local are without a price" in unpriced.out
    # The example that ships is an example's name away.
    assert acme("ledger", "replay", "--tariff", "free", *NOVEMBER).code == 0
    refused = acme("ledger", "replay", "--tariff", "/nowhere.toml", fails=True)
    assert refused.code == 2


def test_usage_is_exported(acme: Desk, tmp_path: Path) -> None:
    acme.ask("one")
    acme.ask("two", at_ms=NOON_MS + 86_400_000)
    acme.record("three")
    path = tmp_path / "usage.csv"
    said = acme("ledger", "export", "usage", *NOVEMBER, "--csv", str(path))
    assert "3 rows" in said.err
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["request_id"] for row in rows] == ["one", "two", "three"]
    assert [row["charged_micro"] for row in rows] == [str(COST), str(COST), "0"]
    assert rows[0]["rule_id"] == "r1"
    printed = acme("ledger", "export", "usage", "--tenant", "acme", "--to", "2025-11-24").out
    assert [row["request_id"] for row in csv.DictReader(io.StringIO(printed))] == ["one"]


def test_entries_are_exported_with_their_postings(acme: Desk) -> None:
    acme.ask("one")
    printed = acme("ledger", "export", "entries", *NOVEMBER).out
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert {row["kind"] for row in rows} == {"reserve", "settle"}
    assert sum(int(row["micro"] or 0) for row in rows) == 0
    assert [int(row["micro"]) for row in rows if row["account"] == "income/r1"] == [COST]
    today = list(csv.DictReader(io.StringIO(acme("ledger", "export", "entries").out)))
    assert {row["kind"] for row in today} == {"top_up", "grant"}


def test_a_broken_database_is_told_plainly(desk: Desk) -> None:
    desk.folder.mkdir()
    (desk.folder / "accounts.db").write_bytes(b"not a database" * 1000)
    refused = desk("ledger", "verify", fails=True)
    assert "accounts.db" in refused.err


def test_the_same_on_a_server(
    desk: Desk, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address comes from the environment, where its password is nobody's to read."""
    monkeypatch.setenv("TRIBODY_DATABASE", postgres_url)
    desk("tenants", "add", "acme", "--name", "Acme Ltd")
    desk("ledger", "top-up", "acme", "10", "--note", "wire")
    key = desk("keys", "create", "acme", "--json").json
    db = open_database(postgres_url)
    with db.transaction():
        ledger.reserve(db, reservation("one", key_id=key["id"]))
        ledger.settle(db, "one", COUNTS, "finished", NOON_MS)
    db.close()
    assert "0.0038" in desk("usage", *NOVEMBER).out
    assert "0.0038" in desk("invoice", "acme", *NOVEMBER).out
    assert "margin" in desk("margin", "--cost-per-hour", "1", *NOVEMBER).out
    exported = desk("ledger", "export", "entries", *NOVEMBER).out
    assert "income/r1,CNY,3800" in exported
    report = desk("ledger", "verify", fails=True)  # that quote is of no list that was in use
    assert "1 requests, 1 charges: 1 problems" in report.out
    assert not (desk.folder / "accounts.db").exists()
