"""Accounts that follow the database, and what holds while it cannot be read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tenancy.accounts import NOW_MS, SECRET, WHO, add_key, add_tenant
from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.clock import ManualClock
from tribody.core.errors import BadConfig, StorageFailed
from tribody.core.principal import Principal
from tribody.storage.database import Database
from tribody.storage.opening import open_database, open_reader
from tribody.tenancy import live, store
from tribody.tenancy.directory import Denial
from tribody.tenancy.live import STALE_SECONDS, LiveDirectory
from tribody.tenancy.records import KeyChange, NewKey

BY: dict[str, Any] = {"at_ms": NOW_MS, "who": WHO}


class Reader:
    """A connection that can be broken, and counts what is done with it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.is_broken: StorageFailed | None = None
        self.num_reads = 0
        self.num_opened = 0
        self.num_closed = 0

    def open(self) -> Any:
        self.num_opened += 1
        if self.is_broken:
            raise self.is_broken
        return self

    def rows(self, sql: str, given: Any = ()) -> Any:
        self.num_reads += 1
        if self.is_broken:
            raise self.is_broken
        return self.db.rows(sql, given)

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def reader(db: Database) -> Reader:
    return Reader(db)


@pytest.fixture
def accounts(reader: Reader, clock: ManualClock) -> Iterator[LiveDirectory]:
    add_tenant(reader.db)
    opened = LiveDirectory(reader.open, SECRET, DEFAULT_API, clock)
    yield opened
    opened.close()


def test_what_is_there_at_the_start_is_known(reader: Reader, clock: ManualClock) -> None:
    add_tenant(reader.db)
    key, plain = add_key(reader.db)
    accounts = LiveDirectory(reader.open, SECRET, ApiSettings(profile="2025"), clock)
    found = accounts.find(plain, NOW_MS)
    assert isinstance(found, Principal)
    assert found.api.profile == "2025"
    assert accounts.of_key(key.id, NOW_MS) == found
    assert accounts.find(b"x", NOW_MS) is Denial.UNKNOWN
    assert (accounts.revision, accounts.num_tenants) == (2, 1)


def test_every_change_is_effective_at_the_next_look(
    reader: Reader, accounts: LiveDirectory
) -> None:
    key, plain = add_key(reader.db, expires_ms=NOW_MS + 5)
    assert accounts.find(plain, NOW_MS) is Denial.UNKNOWN
    accounts.poll()
    for find in (lambda at: accounts.find(plain, at), lambda at: accounts.of_key(key.id, at)):
        assert isinstance(find(NOW_MS + 4), Principal)
        assert find(NOW_MS + 5) is Denial.EXPIRED
    store.change_key(reader.db, key.id, KeyChange(is_paused=True), **BY)
    accounts.poll()
    assert accounts.find(plain, NOW_MS) is Denial.PAUSED
    store.revoke_key(reader.db, key.id, **BY)
    accounts.poll()
    assert accounts.find(plain, NOW_MS) is Denial.REVOKED
    assert accounts.of_key(key.id, NOW_MS) is Denial.REVOKED
    assert accounts.revision == 4


def test_nothing_is_read_again_while_nothing_changes(
    reader: Reader, accounts: LiveDirectory
) -> None:
    add_key(reader.db)
    accounts.poll()
    before = reader.num_reads
    for _ in range(10):
        accounts.poll()
    assert reader.num_reads == before + 10
    assert (reader.num_opened, reader.num_closed) == (1, 0)


def test_another_process_is_noticed(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "accounts.db"
    theirs = open_database(path)
    accounts = LiveDirectory(lambda: open_reader(path), SECRET, DEFAULT_API, clock)
    add_tenant(theirs)
    _, plain = add_key(theirs)
    accounts.poll()
    assert isinstance(accounts.find(plain, NOW_MS), Principal)
    accounts.close()
    theirs.close()


def test_the_thread_looks_by_itself(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.001)
    path = tmp_path / "accounts.db"
    theirs = open_database(path)
    add_tenant(theirs)
    accounts = LiveDirectory(lambda: open_reader(path), SECRET, DEFAULT_API, clock)
    before = threading.active_count()
    accounts.start()
    (thread,) = (one for one in threading.enumerate() if one.name == "accounts")
    assert thread.daemon
    _, plain = add_key(theirs)
    seen = threading.Event()
    for _ in range(10_000):
        if accounts.find(plain, NOW_MS) is not Denial.UNKNOWN:
            seen.set()
            break
        seen.wait(0.001)
    assert seen.is_set()
    accounts.close()
    assert threading.active_count() == before
    theirs.close()


def test_it_looks_often_enough() -> None:
    assert live.POLL_SECONDS <= 0.5


def test_one_thread_at_a_time_uses_the_connection(
    reader: Reader, accounts: LiveDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[int] = []
    most: list[int] = []
    pause = threading.Event()
    real: Callable[[Database], int] = store.revision

    def revision(db: Database) -> int:
        inside.append(1)
        most.append(len(inside))
        pause.wait(0.001)
        inside.pop()
        return real(db)

    monkeypatch.setattr(store, "revision", revision)
    threads = [threading.Thread(target=accounts.poll) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


# --- when the database cannot be read ---------------------------------------------------------


def test_the_last_snapshot_holds_while_nothing_can_be_read(
    reader: Reader,
    accounts: LiveDirectory,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, plain = add_key(reader.db, expires_ms=NOW_MS + 5)
    accounts.poll()
    _, unseen = add_key(reader.db)
    reader.is_broken = StorageFailed("the database failed: disk I/O error")
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            clock.advance(STALE_SECONDS / 10)
            accounts.poll()
        assert not accounts.is_stale
        assert caplog.messages == []
        for _ in range(10):
            clock.advance(0.5)
            accounts.poll()
            assert accounts.is_stale
    assert isinstance(accounts.find(plain, NOW_MS), Principal)
    assert accounts.find(plain, NOW_MS + 5) is Denial.EXPIRED
    assert accounts.find(unseen, NOW_MS) is Denial.UNKNOWN
    assert caplog.messages == [
        "event=accounts_stale revision=2 seconds=5.5 detail='the database failed: disk I/O error'"
    ]
    assert caplog.records[0].levelno == logging.ERROR
    assert reader.num_closed == 1
    assert reader.num_opened == 1 + 19


def test_it_is_read_again_when_it_can_be(
    reader: Reader,
    accounts: LiveDirectory,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        reader.is_broken = StorageFailed("gone")
        accounts.poll()
        clock.advance(STALE_SECONDS + 0.1)
        accounts.poll()
        assert accounts.is_stale
        reader.is_broken = None
        _, plain = add_key(reader.db)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            accounts.poll()
            accounts.poll()
        assert not accounts.is_stale
        assert isinstance(accounts.find(plain, NOW_MS), Principal)
        assert caplog.messages == [f"event=accounts_read_again revision={accounts.revision}"]
    assert reader.num_closed == 2


def test_a_short_failure_is_nobodys_business(
    reader: Reader,
    accounts: LiveDirectory,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        reader.is_broken = StorageFailed("busy")
        accounts.poll()
        clock.advance(STALE_SECONDS)
        reader.is_broken = None
        accounts.poll()
    assert not accounts.is_stale
    assert caplog.messages == []


def test_a_thread_that_hangs_shows(accounts: LiveDirectory, clock: ManualClock) -> None:
    clock.advance(STALE_SECONDS)
    assert not accounts.is_stale
    clock.advance(0.01)
    assert accounts.is_stale
    accounts.poll()
    assert not accounts.is_stale


def test_what_takes_long_to_read_is_as_old_as_its_beginning(
    reader: Reader, accounts: LiveDirectory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def revision(db: Database) -> int:
        clock.advance(STALE_SECONDS + 1)
        return accounts.revision

    monkeypatch.setattr(store, "revision", revision)
    accounts.poll()
    assert accounts.is_stale


def test_a_database_of_another_secret_changes_nothing(
    reader: Reader, accounts: LiveDirectory, clock: ManualClock
) -> None:
    _, plain = add_key(reader.db)
    accounts.poll()
    other = open_database(":memory:")
    add_tenant(other)
    store.add_key(other, bytes(32), NewKey(tenant_id="acme"), **BY)
    store.add_key(other, bytes(32), NewKey(tenant_id="acme"), **BY)
    reader.db = other
    clock.advance(STALE_SECONDS + 1)
    accounts.poll()
    assert accounts.is_stale
    assert isinstance(accounts.find(plain, NOW_MS), Principal)
    other.close()


def test_without_a_first_snapshot_there_is_nothing(
    reader: Reader, clock: ManualClock, db: Database
) -> None:
    add_tenant(db)
    add_key(db)
    with pytest.raises(BadConfig, match="made with another secret"):
        LiveDirectory(reader.open, bytes(32), DEFAULT_API, clock)
    assert reader.num_closed == 1
    reader.is_broken = StorageFailed("gone")
    with pytest.raises(StorageFailed, match="gone"):
        LiveDirectory(reader.open, SECRET, DEFAULT_API, clock)


def test_records_that_are_left_out_are_logged_once(
    reader: Reader, accounts: LiveDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    key, _ = add_key(reader.db)
    reader.db.run("UPDATE api_keys SET api = 'x=1'")
    accounts.poll()
    accounts.poll()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("event=account_denied problem=")
    assert key.id in caplog.messages[0]
    assert caplog.records[0].levelno == logging.ERROR


def test_it_can_be_closed_twice_and_without_a_start(reader: Reader, clock: ManualClock) -> None:
    accounts = LiveDirectory(reader.open, SECRET, DEFAULT_API, clock)
    accounts.close()
    accounts.close()
    assert reader.num_closed == 1
