"""The folder in which uploaded files and batches outlive the server, and how it is written.

One server has it at a time (a lock says so).  What is there is whole: a file gets its name when all
of it is on the disk, and a journal grows line by line, of which only the last can be torn.  Names
are made from ids that we drew ourselves, never from a request's text.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from tribody.core.errors import BadConfig

FOLDERS = ("files", "batches")
PART = ".part"  # of names of what is not whole yet

T = TypeVar("T", bound=msgspec.Struct)


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


class DataFolder:
    """Opened and locked; `close` lets go of it."""

    def __init__(self, root: Path) -> None:
        """Raises: BadConfig when the folder cannot be used or another server has it."""
        self.root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in FOLDERS:
                (root / name).mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadConfig(f"the data folder {root} cannot be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise BadConfig(
                f"the data folder {root} is another server's; give each its own --data-dir"
            ) from None
        for name in FOLDERS:
            for torn in (root / name).glob(f"*{PART}"):
                torn.unlink()

    def close(self) -> None:
        os.close(self._lock)

    def path(self, folder: str, name: str) -> Path:
        assert folder in FOLDERS
        return self.root / folder / name

    def records(self, folder: str, kind: type[T]) -> Iterator[T]:
        """What `write_record` has written.  Raises: BadConfig where that cannot be read."""
        for path in sorted((self.root / folder).glob("*.json")):
            try:
                yield msgspec.json.decode(path.read_bytes(), type=kind)
            except (OSError, msgspec.MsgspecError) as error:
                raise BadConfig(
                    f"{path} cannot be read ({error}); remove it to do without it"
                ) from error

    def write_record(self, folder: str, record_id: str, record: msgspec.Struct) -> None:
        with self.writing(folder, f"{record_id}.json") as file:
            file.write(msgspec.json.encode(record))

    @contextlib.contextmanager
    def writing(self, folder: str, name: str) -> Iterator[BinaryIO]:
        """A file that is there under its name when the block has ended well, and not before."""
        path = self.path(folder, name)
        part = path.with_name(name + PART)
        try:
            with open(part, "wb", opener=_private) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            self._sync(folder)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def copy(self, folder: str, name: str, source: BinaryIO) -> None:
        with self.writing(folder, name) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def remove_strays(self, folder: str, suffix: str, known: Collection[str]) -> None:
        """Remove the files with this suffix whose records were never written."""
        for path in (self.root / folder).glob(f"*{suffix}"):
            if path.name.removesuffix(suffix) not in known:
                path.unlink()

    def link(self, source: Path, folder: str, name: str) -> None:
        """One more name for a file that stays when the first one goes."""
        path = self.path(folder, name)
        path.unlink(missing_ok=True)
        os.link(source, path)
        self._sync(folder)

    def remove(self, folder: str, *names: str) -> None:
        for name in names:
            self.path(folder, name).unlink(missing_ok=True)

    def _sync(self, folder: str) -> None:
        handle = os.open(self.root / folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Journal:
    """A file of lines, each on the disk when `append` returns.  Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        """Opens it, or begins it; a last line without an end is cut off."""
        self._file = open(path, "a+b", opener=_private)  # noqa: SIM115 - until `close`
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if line.endswith(b"\n"):
                whole += len(line)
        self._file.truncate(whole)
        self._file.seek(whole)

    def append(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def lines(self) -> Iterator[bytes]:
        """All lines so far."""
        with open(self._file.name, "rb") as file:
            yield from file

    def close(self) -> None:
        self._file.close()
