"""Verification finds whatever was changed, removed, put in or moved, wherever it was."""

from __future__ import annotations

import hashlib
from functools import partial

import msgspec
import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, database, reservation, usage
from tests.billing.test_ledger_tariffs import PLAIN
from tribody.billing import ledger, verify
from tribody.billing.entries import entry_hash
from tribody.billing.tariffs import Tariff
from tribody.billing.verify import Head
from tribody.core.metering import Counts

RICH = (
    PLAIN
    + """
free = "trial"
[free.trial]
hit = 700
output = 50
[[rule]]
id = "judged"
title = "Judged"
models = ["judge"]
hit = 1
miss = 1
output = 1
result = "0.002"
accept_seconds = 60
"""
)


def fill(db) -> None:
    """Something of every kind."""
    with db.transaction():
        tariff = ledger.use_tariff(db, RICH, NOON_MS, "root")
        ledger.top_up(db, "acme", 50_000, "CNY", "first", "wire", NOON_MS, "root")
        ledger.grant(db, "acme", 2000, "CNY", "gift", "hello", NOON_MS, "root")

        def reserve(name: str, model: str = "r1", **changes) -> None:
            quote = tariff.find(
                model=model,
                tenant_id="acme",
                at_ms=NOON_MS,
                prompt_tokens=1000,
                is_batch=False,
            )
            ledger.reserve(
                db, reservation(name, quote=quote, model=model, prompt_tokens=1000, **changes)
            )

        def settle(name: str, outcome="finished", counts=COUNTS) -> None:
            ledger.settle(db, name, counts, outcome, NOON_MS + 5)

        reserve("one", idempotency_key="k", body_digest="b")
        reserve("two")
        settle("two")
        settle("one")
        reserve("failed")
        settle("failed", "error", Counts(prompt_tokens=7))
        for name in ("yes", "no", "late", "undecided"):
            reserve(name, "judge")
            settle(name, counts=Counts(prompt_tokens=10, completion_tokens=1))
        ledger.accept(db, "yes", True, NOON_MS + 6)
        ledger.accept(db, "no", False, NOON_MS + 6)
        ledger.accept(db, "late", True, NOON_MS + 10**6)
        reserve("open")
        ledger.record(db, usage("recorded"))
        ledger.use_tariff(db, PLAIN, NOON_MS + 9, "root")
        ledger.refund(db, "acme", 10, "CNY", "back", "", NOON_MS, "root")
        ledger.adjust(db, "acme", -1, "CNY", "fix", "", NOON_MS, "root")


@pytest.fixture
def db():
    opened = database()
    fill(opened)
    yield opened
    opened.close()


@pytest.fixture
def books():
    """In SQLite, without what keeps its rows from being changed."""
    opened = database()
    fill(opened)
    for (name,) in opened.rows("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
        opened.run(f"DROP TRIGGER {name!s}")
    yield opened
    opened.close()


def problems(db) -> list[str]:
    report = ledger.verify(db)
    assert report.is_right == (report.problems == [])
    return report.problems


def test_what_was_not_touched_is_right(db):
    seen = []
    report = ledger.verify(db, lambda done, total: seen.append((done, total)))
    assert report.problems == []
    assert report.is_right
    [(count, last)] = db.rows("SELECT count(*), max(sequence) FROM entries")
    assert (report.entries, report.head.sequence) == (count, last)
    assert (report.requests, report.charges) == (9, 6)
    assert seen == [(count, count)]


def _note(seen: list[int], done: int, _total: int) -> None:
    seen.append(done)


def test_an_empty_ledger_is_right():
    db = database()
    report = ledger.verify(db)
    assert (report.entries, report.is_right, report.head) == (0, True, Head(0, "0" * 64))
    db.close()


def test_it_is_read_in_pages(db, monkeypatch):
    whole = ledger.verify(db)
    for size in (1, 2, 7, whole.entries, whole.entries + 1):
        monkeypatch.setattr(verify, "PAGE_ENTRIES", size)
        seen: list[int] = []
        assert ledger.verify(db, partial(_note, seen)) == whole
        assert seen[-1] == whole.entries
        assert len(seen) == -(-whole.entries // size)


COLUMNS = {
    "entries": ["sequence", "kind", "at_ms", "tenant_id", "request_id", "detail", "hash"],
    "postings": ["sequence", "line", "account", "currency", "micro"],
    "usage": [
        *("sequence", "request_id", "tenant_id", "user_id", "key_id", "model", "route", "streamed"),
        *("is_batch", "started_ms", "ended_ms", "prompt_tokens", "cached_tokens"),
        *("completion_tokens", "reasoning_tokens", "outcome", "currency", "charged_micro"),
        *("tariff_digest", "rule_id"),
    ],
    "tariffs": ["digest", "text"],
    "tariff_uses": ["sequence", "digest"],
    "balances": ["account", "currency", "micro"],
    "totals": ["scope", "period", "currency", "tokens", "micro", "held_tokens", "held_micro"],
    "requests": ["request_id", "node_id", "opened", "closed"],
    "free_used": ["tenant_id", "allowance_id", "period", "hit", "miss", "output", "reasoning"],
    "results": [
        *("sequence", "request_id", "tenant_id", "model", "currency", "micro", "until_ms"),
        *("decided", "accepted"),
    ],
    "idempotency": ["scope", "key", "body_digest", "sequence"],
}


def columns_of(books, table: str) -> dict[str, str]:
    """Their types by their names."""
    rows = books.rows(f"SELECT name, type FROM pragma_table_info('{table}') WHERE name <> 'id'")
    return {str(name): str(kind) for name, kind in rows}


OTHERS = {  # that the ledger does not speak of
    *("migrations", "revision", "tenants", "users", "api_keys", "changes", "secret_used"),
}


def test_every_table_is_tampered_with(books):
    tables = {
        str(name) for (name,) in books.rows("SELECT name FROM sqlite_schema WHERE type='table'")
    }
    assert tables == COLUMNS.keys() | OTHERS
    assert {table: list(columns_of(books, table)) for table in COLUMNS} == COLUMNS


def row_keys(books, table: str) -> list[tuple]:
    key = [
        str(name)
        for (name,) in books.rows(
            f"SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk"
        )
    ]
    rows = books.rows(f"SELECT {', '.join(key)} FROM {table}")
    return [(" AND ".join(f"{name} = ?" for name in key), row) for row in rows]


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in COLUMNS for column in COLUMNS[table]]
)
def test_a_changed_value_is_found_in_any_row(books, table, column):
    rows = row_keys(books, table)
    assert rows
    for condition, key in rows:
        with books.transaction():
            books.run("SAVEPOINT before")
            is_number = columns_of(books, table)[column] == "INTEGER"
            new = f"coalesce({column}, 0) + 1000000" if is_number else f"{column} || 'x'"
            books.run(f"UPDATE {table} SET {column} = {new} WHERE {condition}", key)
            assert problems(books), (key, column)
            books.run("ROLLBACK TO before; RELEASE before")
    assert problems(books) == []


@pytest.mark.parametrize("table", COLUMNS)
def test_a_removed_row_is_found(books, table):
    for condition, key in row_keys(books, table):
        with books.transaction():
            books.run("SAVEPOINT before")
            books.run(f"DELETE FROM {table} WHERE {condition}", key)
            assert problems(books), key
            books.run("ROLLBACK TO before; RELEASE before")
    assert problems(books) == []


@pytest.mark.parametrize("table", COLUMNS)
def test_an_added_row_is_found(books, table):
    """A copy of each row under every other key that it may have."""
    columns = COLUMNS[table]
    [(last,)] = books.rows("SELECT max(sequence) FROM entries")
    for condition, key in row_keys(books, table):
        [row] = books.rows(f"SELECT {', '.join(columns)} FROM {table} WHERE {condition}", key)
        for place in (-1, 0, last + 1, last + 2):
            copy = list(row)
            if columns[0] == "sequence":
                copy[0] = place
            else:
                copy[0] = f"{copy[0]}{place}"
            if "request_id" in columns:
                copy[columns.index("request_id")] = f"copy {place}"
            with books.transaction():
                books.run("SAVEPOINT before")
                marks = ", ".join("?" * len(copy))
                books.run(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", copy)
                assert problems(books), copy
                books.run("ROLLBACK TO before; RELEASE before")
    assert problems(books) == []


def test_swapped_entries_are_found(books):
    [(last,)] = books.rows("SELECT max(sequence) FROM entries")
    for n in range(1, last):
        with books.transaction():
            books.run("SAVEPOINT before")
            for table in ("entries", "postings", "usage"):
                for old, new in ((n, -1), (n + 1, n), (-1, n + 1)):
                    books.run(f"UPDATE {table} SET sequence = ? WHERE sequence = ?", (new, old))
            assert problems(books), n
            books.run("ROLLBACK TO before; RELEASE before")
    assert problems(books) == []


def rechain(books) -> None:
    """What somebody would do who knows how the hashes are made."""
    previous = "0" * 64
    rows = books.rows(
        "SELECT sequence, kind, at_ms, tenant_id, request_id, detail FROM entries ORDER BY sequence"
    )
    for row in rows:
        postings = books.rows(
            "SELECT account, currency, micro FROM postings WHERE sequence = ? ORDER BY line",
            row[:1],
        )
        used = books.rows("SELECT * FROM usage WHERE sequence = ?", row[:1])
        previous = entry_hash(previous, row, postings, used[0][1:] if used else None)
        books.run("UPDATE entries SET hash = ? WHERE sequence = ?", (previous, row[0]))


def test_who_knows_the_hashes_is_found_by_what_does_not_fit(books):
    """The chain made anew: the rest does not follow from it any more."""
    rechain(books)
    assert problems(books) == []
    changes = [
        "UPDATE usage SET completion_tokens = completion_tokens - 1 WHERE request_id = 'one'",
        "UPDATE usage SET charged_micro = charged_micro - 1 WHERE request_id = 'one'",
        "UPDATE usage SET outcome = 'error' WHERE request_id = 'one'",
        "UPDATE usage SET prompt_tokens = 8 WHERE request_id = 'recorded'",
        "UPDATE usage SET ended_ms = ended_ms + 1 WHERE request_id = 'recorded'",
        "UPDATE entries SET at_ms = at_ms + 1 WHERE kind = 'settle'",
        "UPDATE entries SET at_ms = at_ms + 1 WHERE kind = 'reserve'",
        "UPDATE entries SET at_ms = at_ms + 1 WHERE kind = 'top_up'",
        "UPDATE entries SET tenant_id = 'zeta' WHERE kind = 'settle'",
        "UPDATE entries SET tenant_id = 'zeta' WHERE kind = 'accept'",
        "UPDATE entries SET kind = 'grant' WHERE kind = 'top_up'",
        "UPDATE entries SET kind = 'bonus' WHERE kind = 'top_up'",
        "UPDATE entries SET kind = 'decline' WHERE kind = 'accept'",
        "UPDATE entries SET detail = '{' WHERE kind = 'settle'",
        "UPDATE entries SET request_id = 'else' WHERE request_id = 'one'",
        "UPDATE postings SET micro = micro + 1 WHERE sequence = 2 AND line = 0",
        "UPDATE postings SET micro = 2 * micro WHERE sequence = 2",
        "UPDATE postings SET account = 'cash2' WHERE account = 'cash'",
        "DELETE FROM postings WHERE sequence = 2",
        "DELETE FROM usage WHERE request_id = 'one'",
        "DELETE FROM usage WHERE request_id = 'recorded'",
        "DELETE FROM entries WHERE sequence = (SELECT max(sequence) FROM entries)",
        *(
            f"UPDATE entries SET detail = replace(detail, '{old}', '{new}') "
            f"WHERE kind = '{kind}' AND detail LIKE '%{old}%'"
            for kind, old, new in (
                ("reserve", '"miss":4000000', '"miss":3000000'),
                ("reserve", '"rule_id":"all"', '"rule_id":"any"'),
                ("reserve", '"worst_tokens":1200', '"worst_tokens":1201'),
                ("reserve", '"worst_micro":5000', '"worst_micro":5001'),
                ("reserve", '"node_id":"node"', '"node_id":"edon"'),
                ("reserve", '"body_digest":"b"', '"body_digest":"c"'),
                ("reserve", '"prompt_tokens":1000', '"prompt_tokens":-1'),
                ("reserve", '"model":"r1"', '"model":"judge"'),
                ("settle", '"miss":4000000', '"miss":3000000'),
                ("settle", '"granted_micro":2000', '"granted_micro":1999'),
                ("settle", '"free_tokens":50', '"free_tokens":51'),
                ("settle", '"result_micro":2000', '"result_micro":2001'),
                ("top_up", '"amount_micro":50000', '"amount_micro":50001'),
                ("top_up", '"idempotency_key":"first"', '"idempotency_key":"gift"'),
                ("accept", '"micro":2000', '"micro":1999'),
                ("tariff", '"digest":"', '"digest":"x'),
            )
        ),
    ]
    for change in changes:
        with books.transaction():
            books.run("SAVEPOINT before")
            books.run(change)
            [(changed,)] = books.rows("SELECT changes()")
            assert changed, change
            rechain(books)
            assert problems(books), change
            books.run("ROLLBACK TO before; RELEASE before")


def test_an_end_that_was_cut_off_is_found_by_who_knew_it(books):
    """Nothing in the database itself can show this."""
    known = ledger.verify(books).head
    assert ledger.verify(books, known=known).is_right
    assert ledger.verify(books, known=Head(5, str(hash_of(books, 5)))).is_right
    assert ledger.verify(books, known=Head(0, "0" * 64)).is_right
    other = database()
    with other.transaction():
        ledger.top_up(other, "acme", 1, "CNY", "k", "", NOON_MS, "root")
    assert ledger.verify(other).is_right
    assert ledger.verify(other, known=known).problems == [
        f"the chain ends before entry {known.sequence}, which it once had"
    ]
    assert ledger.verify(other, known=Head(1, known.hash)).problems == [
        "entry 1 is another than it once was"
    ]
    other.close()


def hash_of(books, sequence: int):
    [(digest,)] = books.rows("SELECT hash FROM entries WHERE sequence = ?", (sequence,))
    return digest


def test_a_price_that_no_list_has_is_found(books):
    """A charge by a quote that somebody made up, booked by the ledger itself."""
    made_up = Tariff.parse(PLAIN.replace("output = 16", "output = 15")).find(
        model="r1", tenant_id="acme", at_ms=NOON_MS, prompt_tokens=1000, is_batch=False
    )
    with books.transaction():
        ledger.reserve(books, reservation("made up", quote=made_up, prompt_tokens=1000))
    [problem] = problems(books)
    assert "is priced by a list that was not in use" in problem
    current = ledger.current_tariff(books)
    assert current is not None
    lied = msgspec.structs.replace(made_up, tariff_digest=current.digest)
    with books.transaction():
        ledger.reserve(books, reservation("lied", quote=lied, prompt_tokens=1000))
    assert "output 15 CNY per million tokens; the list says All models: hit 1" in problems(books)[1]


def test_problems_are_counted_and_the_first_hundred_shown(books):
    with books.transaction():
        for n in range(150):
            books.run("INSERT INTO balances VALUES (?, 'CNY', 1)", (f"tenant/{n}/granted",))
    report = ledger.verify(books)
    assert (len(report.problems), report.num_problems, report.is_right) == (100, 150, False)
    assert report.problems[0] == (
        "the balance ('tenant/0/granted', 'CNY') is kept as (1,); the ledger says None"
    )


def test_a_price_list_is_named_by_its_text():
    assert Tariff.parse(PLAIN).digest == hashlib.sha256(PLAIN.encode()).hexdigest()
