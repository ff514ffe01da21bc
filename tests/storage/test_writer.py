"""The writing thread: works share commits, are undone alone, and stop when the disk fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from tribody.core.errors import BadConfig, StorageFailed
from tribody.storage import writer as writer_module
from tribody.storage.database import Database, DiskFull, StatementRefused
from tribody.storage.opening import open_database, open_reader
from tribody.storage.writer import MAX_WORKS, Writer


class Watched:
    """A database that counts its commits and fails the next ones with `failures`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._depth = 0
        self.commits = 0
        self.checkpoints = 0
        self.failures: list[BaseException] = []
        self.checkpoint_failure: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextmanager
    def transaction(self):
        self._depth += 1
        try:
            with self._database.transaction():
                yield
                if self._depth == 1 and self.failures:
                    raise self.failures.pop(0)
            self.commits += self._depth == 1
        finally:
            self._depth -= 1

    def checkpoint(self) -> None:
        self.checkpoints += 1
        if self.checkpoint_failure is not None:
            raise self.checkpoint_failure


@pytest.fixture
def path(tmp_path):
    return tmp_path / "accounts.db"


@pytest.fixture
def watched(path, monkeypatch) -> Watched:
    database = Watched(open_database(path))
    monkeypatch.setattr(writer_module, "open_database", lambda _where, examine: database)
    return database


@pytest.fixture
def writer(path, watched):
    running = Writer(path)
    yield running
    running.close()


def add(area: str, number: int = 1) -> Callable[[Database], int]:
    def work(db: Database) -> int:
        db.run("INSERT INTO revision (area, number) VALUES (?, ?)", (area, number))
        return number

    return work


def areas(path) -> set[str]:
    reader = open_reader(path)
    found = {str(area) for (area,) in reader.rows("SELECT area FROM revision")}
    reader.close()
    return found


class Gate:
    """A work that keeps the writer busy until it is opened."""

    def __init__(self, writer: Writer) -> None:
        self._open = threading.Event()
        self._begun = threading.Event()
        self.future = writer.submit(self._work)
        assert self._begun.wait(10)

    def _work(self, _db: Database) -> None:
        self._begun.set()
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()


def test_a_result_comes_when_it_is_on_the_disk(writer, path):
    assert writer.submit(add("a", 7)).result(10) == 7
    assert areas(path) == {"a"}


def test_works_that_gather_meanwhile_share_a_commit(writer, watched, path):
    gate = Gate(writer)
    futures = [writer.submit(add(f"area {n}", n)) for n in range(20)]
    assert not any(future.done() for future in futures)
    gate.open()
    assert [future.result(10) for future in futures] == list(range(20))
    assert watched.commits == 2
    assert watched.checkpoints >= 1
    assert len(areas(path)) == 20


def test_a_commit_has_an_upper_size(writer, watched):
    gate = Gate(writer)
    futures = [writer.submit(add(f"area {n}", n)) for n in range(MAX_WORKS + 1)]
    gate.open()
    assert [future.result(10) for future in futures] == list(range(MAX_WORKS + 1))
    assert watched.commits == 3


def test_a_work_that_raises_is_undone_alone(writer, watched, path):
    def bad(db: Database) -> None:
        add("half")(db)
        raise ZeroDivisionError("mine")

    gate = Gate(writer)
    before, failed, same, after = (
        writer.submit(work) for work in (add("before"), bad, add("before"), add("after"))
    )
    gate.open()
    assert before.result(10) == after.result(10) == 1
    with pytest.raises(ZeroDivisionError, match="mine"):
        failed.result(10)
    with pytest.raises(StatementRefused, match="UNIQUE"):
        same.result(10)
    assert watched.commits == 2
    assert areas(path) == {"before", "after"}
    assert writer.failure is None


def test_a_work_that_raises_when_it_is_alone_is_undone_too(writer, watched, path):
    def bad(db: Database) -> None:
        add("half")(db)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        writer.submit(bad).result(10)
    assert (watched.commits, areas(path), writer.failure) == (0, set(), None)
    writer.submit(add("whole")).result(10)
    with pytest.raises(StatementRefused, match="UNIQUE"):
        writer.submit(add("whole")).result(10)
    assert (watched.commits, areas(path), writer.failure) == (1, {"whole"}, None)


def test_a_full_disk_fails_its_commit_and_no_later_one(writer, watched, path):
    def bad(_db: Database) -> None:
        raise ZeroDivisionError

    watched.failures = [DiskFull("no room")]
    first = writer.submit(add("first"))
    with pytest.raises(DiskFull, match="no room"):
        first.result(10)
    assert writer.failure is None
    gate = Gate(writer)
    watched.failures = [DiskFull("no room")] * 2  # the gate's own commit and the next
    futures = [writer.submit(work) for work in (add("second"), bad)]
    gate.open()
    with pytest.raises(DiskFull):
        gate.future.result(10)
    with pytest.raises(DiskFull):
        futures[0].result(10)
    with pytest.raises(ZeroDivisionError):  # it had its own reason
        futures[1].result(10)
    assert writer.submit(add("third")).result(10) == 1
    assert areas(path) == {"third"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StorageFailed("disk I/O error"), "disk I/O error; nothing is written any more"),
        (MemoryError(), "the writer failed: MemoryError; nothing is written any more"),
    ],
)
def test_an_error_of_the_disk_stops_it_for_ever(writer, watched, path, error, reason):
    gate = Gate(writer)
    watched.failures = [error]
    waiting = writer.submit(add("waiting"))
    gate.open()
    for future in (gate.future, waiting):
        with pytest.raises(StorageFailed):
            future.result(10)
    assert writer.failure is not None
    assert writer.failure.startswith(reason)
    with pytest.raises(StorageFailed, match="started again"):
        writer.submit(add("later"))
    with pytest.raises(StorageFailed, match="started again"):
        asyncio.run(writer.run(add("later")))
    assert areas(path) == set()
    assert watched.commits == 0


def test_a_failing_checkpoint_stops_it_unless_the_disk_is_full(writer, watched, path):
    watched.checkpoint_failure = DiskFull("no room")
    assert writer.submit(add("first")).result(10) == 1
    assert writer.submit(add("second")).result(10) == 1
    assert writer.failure is None
    watched.checkpoint_failure = StorageFailed("disk I/O error")
    assert writer.submit(add("third")).result(10) == 1  # it is on the disk, in the log
    writer.close()
    assert writer.failure is not None
    with pytest.raises(StorageFailed, match="disk I/O error"):
        writer.submit(add("later"))
    assert areas(path) == {"first", "second", "third"}


def test_coroutines_wait_for_it(writer, path):
    async def many() -> list[int]:
        return await asyncio.gather(*(writer.run(add(f"area {n}", n)) for n in range(10)))

    assert asyncio.run(many()) == list(range(10))
    assert len(areas(path)) == 10

    def bad(_db: Database) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(writer.run(bad))


def test_who_is_cancelled_does_not_undo_the_work(writer, path):
    async def leave() -> None:
        gate = Gate(writer)
        task = asyncio.create_task(writer.run(add("left")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert await writer.run(add("last")) == 1

    asyncio.run(leave())
    future: Future[int] = writer.submit(add("kept"))
    assert not future.cancel()
    assert future.result(10) == 1
    assert areas(path) == {"left", "last", "kept"}


def test_closing_finishes_the_queue(path, watched):
    writer = Writer(path)
    gate = Gate(writer)
    futures = [writer.submit(add(f"area {n}")) for n in range(5)]
    threading.Timer(0.01, gate.open).start()
    writer.close()
    assert [future.result(0) for future in futures] == [1] * 5
    with pytest.raises(StorageFailed, match="closed"):
        writer.submit(add("late"))
    writer.close()  # once more does no harm
    assert len(areas(path)) == 5


def test_a_loop_that_is_gone_is_no_failure(writer, path):
    loop = asyncio.new_event_loop()
    gate = Gate(writer)
    task = loop.create_task(writer.run(add("orphan")))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    gate.open()
    assert writer.submit(add("next")).result(10) == 1
    assert areas(path) == {"orphan", "next"}


def test_a_database_that_cannot_be_opened_is_said_at_once(tmp_path):
    with pytest.raises(BadConfig, match="cannot be opened"):
        Writer(tmp_path / "nowhere" / "accounts.db")
