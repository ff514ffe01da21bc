"""Where databases come from: a file's path or a server's URL."""

from __future__ import annotations

from pathlib import Path

from tribody.core.errors import BadConfig
from tribody.storage.database import Database
from tribody.storage.migrations import migrate
from tribody.storage.sqlite import SqliteDatabase

URL_SCHEMES = ("postgresql://", "postgres://")


def open_database(where: Path | str, *, examine: bool = False) -> Database:
    """A connection that reads and writes, with every table there.

    `examine`: after a crash, first see whether a file's pages make sense (`SqliteDatabase`).

    Raises: BadConfig when it cannot be used as it is; StorageFailed when the disk fails or the
    server does not answer.
    """
    database = _connect(where, read_only=False, examine=examine)
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def open_reader(where: Path | str) -> Database:
    """A connection that only reads a database that is there: for what need not wait for writers.

    Raises: BadConfig when there is none; StorageFailed when the server does not answer.
    """
    return _connect(where, read_only=True)


def _connect(where: Path | str, *, read_only: bool, examine: bool = False) -> Database:
    if not (isinstance(where, str) and where.startswith(URL_SCHEMES)):
        return SqliteDatabase(where, read_only=read_only, examine=examine)
    try:
        # Here and not above: psycopg is an optional extra.
        from tribody.storage.postgres import PostgresDatabase
    except ImportError as error:
        raise BadConfig(
            f"a database on a server needs the extra: pip install 'tribody[postgres]' ({error})"
        ) from error
    return PostgresDatabase(where, read_only=read_only)
