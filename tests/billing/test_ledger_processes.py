"""Several writers of one database: processes, and works of one process that arrive at once."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, reservation
from tribody.billing import ledger
from tribody.core.errors import BadInput
from tribody.storage.opening import open_database, open_reader
from tribody.storage.writer import Writer

TIMES = 30


def unpriced(name: str, **changes: str) -> ledger.Reservation:
    return reservation(name, quote=None, worst_micro=0, **changes)


@pytest.fixture
def path(tmp_path) -> Path:
    db = open_database(tmp_path / "accounts.db")
    with db.transaction():
        ledger.top_up(db, "acme", 10**9, "CNY", "money", "", NOON_MS, "test")
    db.close()
    return tmp_path / "accounts.db"


def live(path: Path, node: str) -> None:
    """What a server does, beside a command line that tops up."""
    writer = Writer(path)
    for n in range(TIMES):
        name = f"{node} {n}"
        asked = unpriced(name, node_id=node)
        settling = partial(
            ledger.settle, request_id=name, counts=COUNTS, outcome="finished", ended_ms=NOON_MS
        )
        writer.submit(partial(ledger.reserve, reservation=asked)).result()
        writer.submit(settling).result()
        with closing(open_database(path)) as db, db.transaction():
            ledger.top_up(db, "acme", 10, "CNY", name, "", NOON_MS, "test")
    writer.close()


def test_two_processes_write_one_chain(path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=live, args=(path, f"node-{n}")) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    db = open_reader(path)
    report = ledger.verify(db)
    assert report.problems == []
    assert report.entries == 1 + 2 * TIMES * 3
    [balance] = ledger.balances(db, "acme")
    assert balance.topped_up_micro == 10**9 + 2 * TIMES * 10
    assert db.rows("PRAGMA integrity_check") == [("ok",)]
    db.close()


@pytest.mark.parametrize("times", [2, 50])
def test_one_key_at_once_is_one_effect(path, times):
    """Every work in one queue, and as many threads with connections of their own."""
    writer = Writer(path)

    def top_up(db):
        return ledger.top_up(db, "acme", 7, "CNY", "again", "", NOON_MS, "test")

    def reserve(db, n):
        ledger.reserve(db, unpriced(f"request {n}", idempotency_key="k", body_digest="b"))

    entries = {writer.submit(top_up).result(60) for _ in range(times)}
    assert len(entries) == 1
    futures = [writer.submit(partial(reserve, n=n)) for n in range(times)]
    outcomes = [type(future.exception(60)).__name__ for future in futures]
    assert sorted(outcomes) == ["AlreadyReserved"] * (times - 1) + ["NoneType"]
    writer.close()
    with closing(open_database(path)) as db:
        assert ledger.verify(db).problems == []
        assert ledger.balances(db, "acme")[0].topped_up_micro == 10**9 + 7


def test_one_key_from_many_connections_is_one_effect(path):
    def reserve(n: int) -> str:
        asked = unpriced(f"request {n}", idempotency_key="k", body_digest=f"{n % 2}")
        with closing(open_database(path)) as db:
            try:
                with db.transaction():
                    ledger.reserve(db, asked)
            except BadInput as error:
                return type(error).__name__
        return "done"

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(reserve, range(24)))
    assert outcomes.count("done") == 1
    assert outcomes.count("AlreadyReserved") == 11
    assert outcomes.count("IdempotencyConflict") == 12
    with closing(open_database(path)) as db:
        assert ledger.verify(db).problems == []
        assert len(ledger.open_reservations(db)) == 1
