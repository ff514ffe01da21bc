"""A database in one file: SQLite through apsw, whose SQLite is its own and no older than 3.54.

Write-ahead log with `synchronous=FULL`: a transaction has ended when fsync has returned.  Other
processes may read and write the same file; who has to wait for them for 10 s gives up.  The log is
copied into the file by whoever calls `checkpoint`, never in the middle of a commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import apsw

from tribody.core.errors import BadConfig, StorageFailed
from tribody.storage.database import (
    DatabaseBusy,
    Dialect,
    DiskFull,
    Row,
    StatementRefused,
    Value,
)

BUSY_TIMEOUT_MS = 10_000
APPLICATION_ID = 0x74726962  # "trib": so that no other program's file is taken for ours
CHECKPOINT_PAGES = 8192
# Pages of 4 KiB in the log before it is copied into the file.  That takes about 10 ms, in which
# commits wait; with 32 MiB it happens once in about a thousand commits of 30 KiB, and so does not
# reach the 99th percentile.
CACHE_KIB = 65_536  # of pages, so that the tables that every request touches stay in memory
MEMORY = ":memory:"


class SqliteDatabase:
    """One connection to one file (or to memory: for tests).  See `Database`."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path | str, *, read_only: bool = False, examine: bool = False) -> None:
        """Opens the file, or begins it.

        `examine`: where a log was left behind, as by a crash, all of the file is read once.  A log
        that was damaged since may be older than what had been copied out of it, and then both
        together make no sense; 80 MB of them are read in 0.2 s.  Who has not examined the log
        leaves it for somebody who does.

        Raises: BadConfig when the file is none of ours, is damaged or cannot be opened.
        """
        has_log = examine and _has_log(path)
        self._depth = 0
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        self._log_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        in_memory = str(path) == MEMORY
        try:
            if not in_memory and not read_only:
                _make_private(Path(path))
            flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
            self._connection = apsw.Connection(str(path), flags=flags)
        except (OSError, apsw.Error) as error:
            raise BadConfig(f"the database {path} cannot be opened: {error}") from error
        try:
            self._prepare(path, read_only=read_only)
            if has_log:
                self._examine(path)
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, not examine)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, path: Path | str, *, read_only: bool) -> None:
        self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        # Plans do not depend on parameters: else statements that a partial index may help are
        # prepared again for each of them, which took 50 us.
        self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        try:
            # In this order: another process may be beginning it, the mark first.
            empty = not self.rows("SELECT 1 FROM sqlite_schema LIMIT 1")
            ours = self._pragma("application_id") == APPLICATION_ID
        except StorageFailed as error:
            raise BadConfig(f"{path} cannot be read as a database: {error}") from error
        if not ours and (read_only or not empty):
            raise BadConfig(f"{path} is not a database of tribody's; give the path of another file")
        self._pragma(f"cache_size = -{CACHE_KIB}")
        self._pragma("mmap_size = 0")  # a file that shrinks under a mapping kills the process
        if read_only:
            self._pragma("query_only = ON")
            return
        if self._pragma("journal_mode = WAL") not in ("wal", "memory"):
            raise BadConfig(
                f"{path} lies where SQLite cannot share memory; keep it on a local disk"
            )
        self._pragma("synchronous = FULL")
        if not ours:
            self._pragma(f"application_id = {APPLICATION_ID}")
        # This takes the place of checkpoints by SQLite itself, at the end of a commit.
        self._connection.set_wal_hook(self._count_log)

    def _examine(self, path: Path | str) -> None:
        try:
            found = str(self._pragma("integrity_check(1)")).splitlines()[-1]
        except StorageFailed as error:
            found = str(error)
        if found != "ok":
            raise BadConfig(
                f"{path} and its log do not belong together any more ({found}); nothing is served "
                "from it: restore a copy of both"
            )

    def _pragma(self, text: str) -> Value:
        rows = self.rows(f"PRAGMA {text}")
        return rows[0][0] if rows else None

    def _count_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._log_pages:  # the log has begun again
            self._checkpoint_at = CHECKPOINT_PAGES
        self._log_pages = pages
        return apsw.SQLITE_OK

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        try:
            return cast(list[Row], self._connection.execute(sql, parameters).fetchall())
        except apsw.Error as error:
            raise _failure(error) from error

    def run(self, sql: str, parameters: Sequence[Value] = ()) -> None:
        try:
            self._connection.execute(sql, parameters)
        except apsw.Error as error:
            raise _failure(error) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self._depth == 0:
            begin, end, undo = self._begin, "COMMIT", "ROLLBACK"
        else:
            name = f"depth_{self._depth}"
            begin, end = f"SAVEPOINT {name}", f"RELEASE {name}"
            undo = f"ROLLBACK TO {name}; RELEASE {name}"
        self.run(begin)
        self._depth += 1
        try:
            yield
            self.run(end)
        except BaseException:
            # SQLite has undone all of it already after some errors of the disk.
            if self._connection.in_transaction:
                self.run(undo)
            raise
        finally:
            self._depth -= 1

    def checkpoint(self) -> None:
        if self._log_pages < self._checkpoint_at:
            return
        # Where a reader keeps part of the log, the next attempt waits for as many pages again.
        self._checkpoint_at = self._log_pages + CHECKPOINT_PAGES
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            raise _failure(error) from error

    def close(self) -> None:
        self._connection.close()


def _has_log(path: Path | str) -> bool:
    log = Path(f"{path}-wal")
    return log.exists() and log.stat().st_size > 0


def _make_private(path: Path) -> None:
    """The file with the rights that the log beside it inherits; its folder has to be there."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _failure(error: apsw.Error) -> StorageFailed:
    if isinstance(error, apsw.FullError):
        return DiskFull("the disk has no room for the database; make room and try again")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return DatabaseBusy(
            f"another process has kept the database busy for {BUSY_TIMEOUT_MS // 1000} s; try again"
        )
    if isinstance(error, apsw.ConstraintError | apsw.SQLError | apsw.MismatchError):
        return StatementRefused(f"the database refused a statement: {error}")
    return StorageFailed(f"the database failed: {error}")
