"""Where databases come from: a file's path or a server's URL."""

from __future__ import annotations

from pathlib import Path

from tribody.storage.database import Database
from tribody.storage.migrations import migrate
from tribody.storage.sqlite import SqliteDatabase


def open_database(where: Path | str) -> Database:
    """A connection that reads and writes, with every table there.

    Raises: BadConfig when it cannot be used as it is; StorageFailed when the disk fails.
    """
    database = SqliteDatabase(where)
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def open_reader(where: Path | str) -> Database:
    """A connection that only reads a database that is there: for what need not wait for writers.

    Raises: BadConfig when there is none.
    """
    return SqliteDatabase(where, read_only=True)
