"""Small files that only their owner may read, such as secrets: made once, by whoever is first."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from tribody.core.errors import BadConfig


def read_or_make(path: Path, what: str, make: Callable[[], bytes], most_bytes: int) -> bytes:
    """What is in the file, at most one byte more than `most_bytes`; made when it is not there.

    Raises: BadConfig when it cannot be read or made, or others may read it; `what` names it.
    """
    try:
        if not path.exists():
            _make(path, make())
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise BadConfig(f"{what} {path} cannot be read or made: {error.strerror}") from error
    if mode & 0o077:
        raise BadConfig(f"{what} {path} may be read by others (mode {mode:o}); chmod 600 it")
    return content


def _make(path: Path, content: bytes) -> None:
    """Whole and on the disk before it has its name; whoever was first wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
