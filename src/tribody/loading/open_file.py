"""A regular file that is open for reading, with every read checked against its size.

Weights are read with `pread` into fresh buffers and never memory-mapped: they are re-encoded to
the run-time format at load, so a map would save no memory that lasts, and a file cut short while
mapped kills the process with SIGBUS.  With `pread` the same accident is a short read, which
becomes a BadModel.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel

_READ_AT_ONCE_BYTES = 1 << 30
# Linux moves at most 2,147,479,552 bytes per read; 1 GiB stays below it on every system.


class OpenFile:
    """A file descriptor with the size that the file had when it was opened.

    Raises: BadModel when the path is missing, unreadable or not a regular file (a FIFO or a
    device would block or never end).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer; no effect on regular files.
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BadModel(f"{path}: cannot be opened: {error.strerror}") from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise BadModel(
                f"{path}: is not a regular file (mode {stat.filemode(status.st_mode)}); "
                "model files must be plain files"
            )
        self.size = status.st_size

    def read(self, offset: int, num_bytes: int) -> NDArray[np.uint8]:
        """Read exactly `num_bytes` at `offset` into a fresh array.

        Raises: BadModel when the range lies outside the file as opened, or when the file has
        become shorter since.
        """
        if offset < 0 or num_bytes < 0 or offset + num_bytes > self.size:
            raise BadModel(
                f"{self.path}: bytes [{offset}, {offset + num_bytes}) are wanted but the file has "
                f"{self.size} bytes; it is truncated or malformed: download it again"
            )
        if os.fstat(self._fd).st_size < offset + num_bytes:
            raise self._shrunk(offset + num_bytes)
        buffer = np.empty(num_bytes, dtype=np.uint8)
        view = buffer.data
        done = 0
        while done < num_bytes:
            part = view[done : done + _READ_AT_ONCE_BYTES]
            count = os.preadv(self._fd, [part], offset + done)
            if count == 0:
                raise self._shrunk(offset + num_bytes)
            done += count
        return buffer

    def read_bytes(self, offset: int, num_bytes: int) -> bytes:
        """As `read`, as bytes; meant for headers and small text files."""
        return self.read(offset, num_bytes).tobytes()

    def close(self) -> None:
        """Close the descriptor; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _shrunk(self, needed: int) -> BadModel:
        return BadModel(
            f"{self.path}: the file had {self.size} bytes when it was opened and now ends before "
            f"byte {needed}; do not replace model files while they are in use"
        )


def read_small_file(path: Path, limit_bytes: int) -> bytes:
    """The whole content of a file of at most `limit_bytes`.

    Raises: BadModel when it is larger, not regular or unreadable.
    """
    file = OpenFile(path)
    try:
        if file.size > limit_bytes:
            raise BadModel(
                f"{path}: has {file.size} bytes, more than the {limit_bytes} that such a file "
                "may have; it is not what its name says"
            )
        return file.read_bytes(0, file.size)
    finally:
        file.close()
