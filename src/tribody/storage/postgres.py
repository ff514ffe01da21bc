"""A database on a PostgreSQL server, through psycopg (the extra `postgres`): for several nodes.

Writers take turns: a transaction begins by taking one lock of the database, so that what it reads
stays true until it ends, as with SQLite.  It has ended when the server has written its log to the
disk; a server that is told not to (`fsync = off`) is refused.

A lost connection undoes the transaction, and the next one connects again.  Where it is lost in the
middle of COMMIT, the number that every transaction leaves in the table `writers` says whether it
was done; only when that cannot be learnt does the failure count as one of the disk.  (The server's
own `pg_xact_status` will not do: a crash makes it give a transaction's number again.)
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import cast
from uuid import uuid4

import psycopg
from psycopg import conninfo
from psycopg.adapt import Buffer, Loader
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper

from tribody.core.errors import BadConfig, StorageFailed
from tribody.storage.database import (
    DatabaseBusy,
    Dialect,
    Disconnected,
    DiskFull,
    Row,
    StatementRefused,
    Value,
)

OLDEST_VERSION = 140000  # the oldest that is still mended
LOCK = f"SELECT pg_advisory_xact_lock({0x74726962})"  # "trib"; of this database alone
# The last transaction of every connection that writes, which is what its row is there for.
WRITERS = (
    'CREATE TABLE IF NOT EXISTS writers (name TEXT COLLATE "C" PRIMARY KEY, number BIGINT NOT NULL)'
)
STATEMENTS_KEPT = 500  # prepared, of a connection: all that tribody has
DOUBT_SECONDS = 60  # that a writer waits for a server which went away in the middle of a commit
RETRY_SECONDS = 0.2

# Of the connection, where the URL does not say otherwise: a peer that is gone is noticed in 20 s.
CONNECTION = {
    "application_name": "tribody",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
}
# Of the session.  A node that hangs in the middle of a transaction must not stop the others.
SETTINGS = (
    ("client_encoding", "UTF8"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "30s"),
)


class _WholeNumber(Loader):
    """Sums of BIGINT are NUMERIC there."""

    def load(self, data: Buffer) -> int:
        return int(bytes(data))


class _Truth(Loader):
    """Comparisons are numbers in SQLite, so they are here."""

    def load(self, data: Buffer) -> int:
        return int(bytes(data) == b"t")


class PostgresDatabase:
    """One connection to one server, made again when it is lost.  See `Database`."""

    dialect: Dialect = "postgresql"

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Connects.

        Raises: BadConfig when the server or its database cannot be used as it is; Disconnected
        when it refuses the connection or does not answer.
        """
        self._read_only = read_only
        self._depth = 0
        self._name = uuid4().hex
        self._number = 0  # of the last transaction
        try:
            self._parameters = CONNECTION | {
                name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()
            }
        except psycopg.Error:  # its text may show the password
            raise BadConfig(
                "the database's URL cannot be read; it looks like postgresql://user@host/name"
            ) from None
        self._connection = self._connect()

    def _connect(self) -> psycopg.Connection[Row]:
        try:
            connection = cast(
                psycopg.Connection[Row],
                psycopg.connect(
                    conninfo.make_conninfo("", **self._parameters),
                    autocommit=True,
                    cursor_factory=psycopg.RawCursor,
                ),
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        # libpq tells no more than a text of why; and nothing was asked for yet that could be lost.
        except psycopg.Error as error:
            raise Disconnected(f"no connection to the database: {_text(error)}") from error
        connection.prepared_max = STATEMENTS_KEPT
        connection.adapters.register_dumper(int, Int8Dumper)
        connection.adapters.register_loader("numeric", _WholeNumber)
        connection.adapters.register_loader("bool", _Truth)
        return connection

    def _prepare(self, connection: psycopg.Connection[Row]) -> None:
        def ask(sql: str) -> str:
            row = connection.execute(sql.encode()).fetchone()
            return "" if row is None else str(row[0])

        version = connection.info.server_version
        if version < OLDEST_VERSION:
            raise BadConfig(
                f"the database is PostgreSQL {version // 10000}; {OLDEST_VERSION // 10000} is the "
                "oldest that will do"
            )
        if (encoding := ask("SHOW server_encoding")) != "UTF8":
            raise BadConfig(f"the database is kept in {encoding}; make one with ENCODING 'UTF8'")
        if ask("SHOW fsync") != "on":
            raise BadConfig(
                "the server may forget what it has confirmed (fsync = off); set fsync = on"
            )
        for name, value in SETTINGS:
            connection.execute(f"SET {name} = '{value}'".encode())
        if ask("SHOW synchronous_commit") == "off":
            connection.execute(b"SET synchronous_commit = on")
        if self._read_only:
            connection.execute(b"SET default_transaction_read_only = on")
            if not ask("SELECT coalesce(to_regclass('migrations')::text, '')"):
                raise BadConfig("there are no tables of tribody's in this database; give another")
        elif ask("SELECT pg_is_in_recovery()::text") == "true":
            raise BadConfig("the server is a standby, which cannot be written; name its primary")
        elif not ask("SELECT coalesce(to_regclass('writers')::text, '')"):
            with connection.transaction():
                connection.execute(LOCK.encode())  # it would be made twice without
                connection.execute(WRITERS.encode())

    @property
    def in_transaction(self) -> bool:
        status = self._connection.info.transaction_status
        return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        if self._depth == 0:
            self._reconnect()
            try:
                return self._execute(sql, parameters)
            except Disconnected:  # as after every restart of the server; nothing was changed yet
                if not sql.startswith("SELECT"):
                    raise
                self._reconnect()
        return self._execute(sql, parameters)

    def run(self, sql: str, parameters: Sequence[Value] = ()) -> None:
        if self._depth == 0:
            self._reconnect()
        self._execute(sql, parameters)

    def _reconnect(self) -> None:
        if self._connection.closed:
            self._connection = self._connect()

    def _execute(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        text, num_parameters = _translated(sql)
        if num_parameters != len(parameters):
            raise StatementRefused(
                f"the statement takes {num_parameters} parameters, not {len(parameters)}"
            )
        values = [int(value) if isinstance(value, bool) else value for value in parameters]
        try:
            # Without parameters it may be several statements, which cannot be prepared.
            cursor = self._connection.execute(text, values or None, prepare=bool(values))
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if self._is_lost(error):
                raise Disconnected(f"the connection was lost: {_text(error)}") from error
            raise _failure(error) from error

    def _is_lost(self, error: psycopg.Error) -> bool:
        """Whether the connection is; it is closed then, though the other end may not be yet."""
        if (error.sqlstate or "").startswith(LOST):
            self._connection.close()
        return bool(self._connection.closed)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._savepoint() if self._depth else self._outermost():
            yield

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        name = f"depth_{self._depth}"
        self._execute(f"SAVEPOINT {name}")
        self._depth += 1
        try:
            yield
            self._execute(f"RELEASE {name}")
        except BaseException:
            self._undo(f"ROLLBACK TO {name}; RELEASE {name}")
            raise
        finally:
            self._depth -= 1

    @contextmanager
    def _outermost(self) -> Iterator[None]:
        self._reconnect()
        self._depth = 1
        try:
            if self._read_only:
                self._execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            else:
                # Every statement behind the lock sees what was committed before it was given.
                self._execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
                self._execute(LOCK)
            yield
            self._commit()
        except BaseException:
            self._undo("ROLLBACK")
            raise
        finally:
            self._depth = 0

    def _undo(self, sql: str) -> None:
        if not self._connection.closed and self.in_transaction:
            self._execute(sql)

    def _commit(self) -> None:
        if self._connection.info.transaction_status == TransactionStatus.INERROR:
            # Somebody caught the error.  COMMIT would answer ROLLBACK, and raise nothing.
            raise StatementRefused("the transaction is undone, for a statement of it was refused")
        if not self._read_only:
            self._number += 1
            self._execute(
                "INSERT INTO writers (name, number) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET number = excluded.number",
                (self._name, self._number),
            )
        try:
            self._connection.execute(b"COMMIT")
        except psycopg.Error as error:
            if not self._is_lost(error):
                raise _failure(error) from error
            if self._read_only or not self._was_committed():
                raise Disconnected("the connection was lost; the transaction is undone") from error

    def _was_committed(self) -> bool:
        """The last transaction, after its connection.  Raises: StorageFailed when nobody says."""
        end = time.monotonic() + DOUBT_SECONDS
        while True:
            try:
                return self._last_number() == self._number
            except (Disconnected, DatabaseBusy) as error:
                if time.monotonic() > end:
                    raise StorageFailed(
                        "the connection was lost in the middle of a commit, and the database has "
                        f"not said within {DOUBT_SECONDS} s whether it was done: {error}"
                    ) from error
                time.sleep(RETRY_SECONDS)

    def _last_number(self) -> Value:
        self._reconnect()
        try:
            self._execute("BEGIN")
            self._execute(LOCK)  # which the lost one holds until it has ended
            rows = self._execute("SELECT number FROM writers WHERE name = ?", (self._name,))
            return rows[0][0] if rows else None
        finally:
            self._undo("ROLLBACK")

    def checkpoint(self) -> None:
        """The server sees to it."""

    def close(self) -> None:
        if self._number and not self._connection.closed and not self.in_transaction:
            with suppress(StorageFailed):  # a row that stays does no harm
                self._execute("DELETE FROM writers WHERE name = ?", (self._name,))
        self._connection.close()


TOKEN = re.compile(r"""'[^']*'|"[^"]*"|--[^\n]*|/\*.*?\*/|\$\$.*?\$\$|\?""", re.DOTALL)


@lru_cache(maxsize=STATEMENTS_KEPT)
def _translated(sql: str) -> tuple[bytes, int]:
    """With `$1`, `$2` for each `?` outside texts, names and comments; and their number."""
    number = 0

    def token(match: re.Match[str]) -> str:
        nonlocal number
        if match[0] != "?":
            return match[0]
        number += 1
        return f"${number}"

    return TOKEN.sub(token, sql).encode(), number


def _text(error: psycopg.Error) -> str:
    """Its first line: the others repeat the statement or tell of every address that was tried."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# By the beginning of SQLSTATE.
LOST = ("08", "57P", "25P03")
BUSY = ("55P03", "40001", "40P01", "53300", "57014")
REFUSED = ("21", "22", "23", "25", "42", "44", "54", "P0", "0A")


def _failure(error: psycopg.Error) -> StorageFailed:
    state = error.sqlstate or ""
    if state in BUSY:
        return DatabaseBusy(f"others keep the database busy ({_text(error)}); try again")
    if state == "53100":
        return DiskFull("the database's disk has no room; make room and try again")
    # Those without a state are of psycopg itself: a text with a zero byte in it.
    if state.startswith(REFUSED) or isinstance(error, psycopg.DataError):
        return StatementRefused(f"the database refused a statement: {_text(error)}")
    return StorageFailed(f"the database failed: {_text(error)}")
