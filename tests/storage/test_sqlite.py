"""The file itself: transactions, what is refused, what other connections see."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from tribody.core.errors import BadConfig, StorageFailed
from tribody.storage import sqlite
from tribody.storage.database import DatabaseBusy, DiskFull, StatementRefused
from tribody.storage.opening import open_database, open_reader
from tribody.storage.sqlite import SqliteDatabase


@pytest.fixture
def path(tmp_path):
    return tmp_path / "accounts.db"


@pytest.fixture
def database(path):
    opened = SqliteDatabase(path)
    opened.run("CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT")
    yield opened
    opened.close()


def numbers(database) -> list[int]:
    return [n for (n,) in database.rows("SELECT n FROM numbers ORDER BY n")]


def add(database, n: int) -> None:
    database.run("INSERT INTO numbers (n) VALUES (?)", (n,))


def add_and_fail(database, *numbers: int) -> None:
    """Each number in a transaction inside the one before it; the outermost one fails."""
    with database.transaction():
        add(database, numbers[0])
        with database.transaction():
            for n in numbers[1:]:
                add(database, n)
        raise ZeroDivisionError


def test_a_transaction_is_all_or_nothing(database):
    with database.transaction():
        add(database, 1)
        assert database.in_transaction
    assert not database.in_transaction
    with pytest.raises(ZeroDivisionError):
        add_and_fail(database, 2)
    assert not database.in_transaction
    assert numbers(database) == [1]


def test_an_inner_transaction_is_undone_alone(database):
    with database.transaction():
        add(database, 1)
        with database.transaction():
            add(database, 2)
            with pytest.raises(ZeroDivisionError):
                add_and_fail(database, 3)
            add(database, 4)
        with pytest.raises(ZeroDivisionError):
            add_and_fail(database, 5, 6, 7)
    assert numbers(database) == [1, 2, 4]


def test_others_see_what_is_committed_and_cannot_write_meanwhile(database, path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 1)
    other, reader = SqliteDatabase(path), open_reader(path)
    with database.transaction():
        add(database, 1)
        assert numbers(other) == numbers(reader) == []
        with pytest.raises(DatabaseBusy, match="another process"), other.transaction():
            pass
        assert not other.in_transaction
    assert numbers(other) == numbers(reader) == [1]
    with other.transaction():
        add(other, 2)
    assert numbers(database) == [1, 2]
    other.close()
    reader.close()


def test_it_waits_for_the_disk_at_every_commit(database):
    assert database.rows("PRAGMA journal_mode") == [("wal",)]
    assert database.rows("PRAGMA synchronous") == [(2,)]
    assert database.rows("PRAGMA mmap_size") == [(0,)]
    assert database.rows("PRAGMA busy_timeout") == [(10_000,)]


def test_a_reader_writes_nothing(database, path):
    reader = open_reader(path)
    with pytest.raises(StorageFailed):
        add(reader, 1)
    reader.close()


def test_a_reader_s_transaction_sees_one_moment(database, path):
    reader = open_reader(path)
    with reader.transaction():
        assert numbers(reader) == []
        add(database, 1)
        assert numbers(reader) == []
    assert numbers(reader) == [1]
    reader.close()


def test_a_full_disk_undoes_the_transaction_and_is_no_end(database):
    (pages,) = database.rows("PRAGMA page_count")[0]
    database.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull, match="no room"):
        add_and_fail(database, *range(10_000))
    assert not database.in_transaction
    assert numbers(database) == []
    database.rows("PRAGMA max_page_count = 100000")
    with database.transaction():
        add(database, 1)
    assert numbers(database) == [1]


def test_what_a_table_refuses_is_our_mistake(database):
    add(database, 1)
    with pytest.raises(StatementRefused, match="UNIQUE"):
        add(database, 1)
    with pytest.raises(StatementRefused, match="mismatch"):
        database.run("INSERT INTO numbers (n) VALUES ('one')")
    with pytest.raises(StatementRefused, match="no such table"):
        database.rows("SELECT 1 FROM nowhere")


def test_only_the_owner_reads_it(database, path):
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_not_ours_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "theirs.db") as theirs:
        theirs.execute("CREATE TABLE notes (text)")
    (tmp_path / "text.db").write_text("not a database, but longer than a header. " * 10)
    with pytest.raises(BadConfig, match=r"not a database of tribody's; give the path of another"):
        open_database(tmp_path / "theirs.db")
    with pytest.raises(BadConfig, match=r"text\.db cannot be read as a database"):
        open_database(tmp_path / "text.db")
    with pytest.raises(BadConfig, match="cannot be opened"):
        open_database(tmp_path / "nowhere" / "accounts.db")
    with pytest.raises(BadConfig, match="cannot be opened"):
        open_reader(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()


def test_the_log_is_copied_into_the_file_by_checkpoint_alone(database, path, monkeypatch):
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 20)
    database = SqliteDatabase(path)
    log = Path(f"{path}-wal")
    add(database, 0)
    before = path.stat().st_size
    database.checkpoint()  # too early
    assert path.stat().st_size == before
    with database.transaction():
        for n in range(1, 10_000):
            add(database, n)
    assert path.stat().st_size == before
    database.checkpoint()
    assert path.stat().st_size > before
    long = log.stat().st_size
    add(database, 10_000)
    assert log.stat().st_size == long  # it begins again
    assert numbers(database) == list(range(10_001))
    database.close()


def test_who_has_not_examined_the_log_leaves_it_behind(path):
    log = Path(f"{path}-wal")
    with_log = SqliteDatabase(path)
    with_log.run("CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT")
    with_log.close()
    assert log.stat().st_size
    examined = SqliteDatabase(path, examine=True)
    add(examined, 1)
    examined.close()
    assert not log.exists()
    reader = open_reader(path)
    assert numbers(reader) == [1]
    reader.close()


def test_a_file_that_makes_no_sense_with_its_log_is_refused(path, monkeypatch):
    """tests/faults makes such files of logs that were damaged; this one is damaged itself."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 1)
    database = SqliteDatabase(path)
    database.run("CREATE TABLE numbers (n INTEGER PRIMARY KEY, t TEXT UNIQUE NOT NULL) STRICT")
    for n in range(300):
        database.run("INSERT INTO numbers VALUES (?, ?)", (n, str(n) * 50))
    database.checkpoint()
    database.run("CREATE TABLE more (n INTEGER PRIMARY KEY) STRICT")  # the log begins again
    database.close()
    with path.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    SqliteDatabase(path).close()  # a command, say, which does not look
    with pytest.raises(BadConfig, match=r"do not belong together .*restore a copy of both"):
        SqliteDatabase(path, examine=True)
