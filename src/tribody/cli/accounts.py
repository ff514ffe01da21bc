"""The accounts' database as the commands use it: opened directly, with or without a server.

A running server notices what is changed here within a second.
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tribody.cli.account_flags import Where
from tribody.cli.environment import read_environment
from tribody.core.config import default_data_dir
from tribody.core.errors import BadConfig
from tribody.storage.database import Database
from tribody.storage.opening import open_database, open_reader

FILE_NAME = "accounts.db"
SECRET_NAME = "secret"


class NoAccounts(BadConfig):
    """There is no database yet."""


@dataclass(frozen=True)
class Accounts:
    """An open database, and whoever is at the keyboard."""

    db: Database
    folder: Path  # the secret is here, also when the database is on a server
    at_ms: int
    who: str

    @property
    def secret_path(self) -> Path:
        return self.folder / SECRET_NAME


@contextmanager
def open_accounts(at: Where, *, make: bool = False) -> Iterator[Accounts]:
    """`make`: the database may be new.

    Raises: NoAccounts when there is none; BadConfig when it cannot be used; StorageFailed.
    """
    where, folder = _place(at, make=make)
    db = open_database(where)
    try:
        yield Accounts(db, folder, now_ms(), author())
    finally:
        db.close()


@contextmanager
def open_books(at: Where) -> Iterator[Database]:
    """For long reading: no writer has to wait for it.  Raises: as `open_accounts`."""
    where, _folder = _place(at, make=False)
    open_database(where).close()  # tables that a newer version has are there from now on
    db = open_reader(where)
    try:
        yield db
    finally:
        db.close()


def _place(at: Where, *, make: bool) -> tuple[Path | str, Path]:
    """The database, and the folder of the secret."""
    environment = read_environment(os.environ)
    folder = at.data_dir or default_data_dir(environment.cache_dir)
    where: Path | str = at.database or environment.database or folder / FILE_NAME
    if isinstance(where, str) and "://" not in where:
        raise BadConfig(
            "--database is not an address; write postgresql://USER@HOST/NAME, or name "
            f"the folder of {FILE_NAME} with --data-dir"
        )
    if isinstance(where, Path):
        if make:
            _make_folder(folder)
        elif not where.exists():
            raise NoAccounts(
                f"there is no {where}; a server that has answered, `tribody tenants add` or "
                "`tribody tariff use` makes it; --data-dir names another folder"
            )
    return where, folder


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def author() -> str:
    """Who the ledger says it was."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container without a user's name
        name = f"uid {os.getuid()}"
    return f"cli: {name}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfig(f"--data-dir {folder}: cannot be made: {error.strerror}") from error
