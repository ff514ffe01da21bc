"""What a database is to tribody: rows in, rows out, transactions that are on the disk at their end.

SQLite and PostgreSQL are spoken to in the SQL that both understand, with `?` for each parameter.
Types are INTEGER (64 bits), TEXT and BLOB; there are no floats, no dates and no booleans in it.
Nothing here knows what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from tribody.core.errors import StorageFailed

Value = int | str | bytes | None
Row = tuple[Value, ...]
Dialect = Literal["sqlite", "postgresql"]


class DiskFull(StorageFailed):
    """There was no room for the transaction, which is undone; it may succeed later."""


class DatabaseBusy(StorageFailed):
    """Another process held the database for too long; the transaction is undone."""


class Disconnected(StorageFailed):
    """The server of the database went away before the commit; the transaction is undone."""


class StatementRefused(StorageFailed):
    """A statement broke a rule of its table, such as "rows are never changed": our mistake."""


class Database(Protocol):
    """One connection.  For one thread at a time.

    Every method raises StorageFailed, or one of its kinds above.
    """

    @property
    def dialect(self) -> Dialect: ...

    @property
    def in_transaction(self) -> bool: ...

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows that a statement gives."""
        ...

    def run(self, sql: str, parameters: Sequence[Value] = ()) -> None:
        """A statement that gives no rows."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing.  When the outermost block has ended, its changes are on the disk.

        It keeps every other writer out from its beginning, so that what was read in it stays true
        until it ends.  Inside another one it is a savepoint: what it did can be undone alone.  A
        reader's keeps nobody out: all that is read in it is as it was at the first of its reads.
        """
        ...

    def checkpoint(self) -> None:
        """Between transactions, by the one thread that writes: housekeeping, where there is any."""
        ...

    def close(self) -> None: ...
