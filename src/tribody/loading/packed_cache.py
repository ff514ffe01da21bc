"""Packed weights of plain loads, kept from one start to the next.

The first start of a model in a format encodes its weights and writes them here; the next ones map
that file.  A file's name holds a digest of all that decides its bytes, and the file states the
whole of it: what is damaged, foreign or of another version is not used and made again.  Nothing
here is needed: where the disk is full or the folder cannot be written, a model is encoded at every
start, and the log says so.

The folder takes at most half of the room that its disk would have without it; what was not used
for longest goes first.  Removing files, or all of it, is safe at any time: who has mapped one
keeps it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tribody.core.errors import BadModel
from tribody.loading.checkpoint_face import Checkpoint
from tribody.loading.packed_checkpoint import SUFFIX, VERSION, PackedCheckpoint, write_checkpoint
from tribody.loading.packed_file import Progress
from tribody.precision.packed_item import PackedItem

logger = logging.getLogger(__name__)

SHARE_OF_DISK = 0.5
HEADER_BYTES = 64 << 20  # room for the description: vocabularies are the largest part, 20 MB


def key_of(parts: Mapping[str, object]) -> str:
    """One text for all that decides the bytes of a packed file; the layout's version is added."""
    return "/".join(f"{name}={value}" for name, value in {**parts, "layout": VERSION}.items())


@dataclass(frozen=True, slots=True)
class PackedSlot:
    """The place of one model in one format; `name` is for people, `key` decides."""

    folder: Path
    name: str
    key: str

    @property
    def path(self) -> Path:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip(".-")[:80]
        return self.folder / f"{stem}-{hashlib.sha256(self.key.encode()).hexdigest()[:16]}{SUFFIX}"

    def open(
        self, progress: Progress | None = None, *, just_written: bool = False
    ) -> PackedCheckpoint | None:
        """What an earlier start has left, every byte checked; None when there is nothing usable.

        `just_written`: `write` has returned True in this process.  The system then holds the very
        bytes and has reported no error in passing them to the disk, so they are not read again.
        """
        path = self.path
        try:
            if not path.exists():
                return None
            found = PackedCheckpoint(path)
            if found.cache_key != self.key:
                raise BadModel(f"{path}: was made of something else")
            if not just_written:
                found.verify(progress)
        except (BadModel, OSError) as problem:  # OSError: no permission, or no maps on this disk
            logger.warning("event=packed_refused reason=%s", problem)
            return None
        with suppress(OSError):  # the time of its last use
            os.utime(path)
        return found

    def write(
        self, source: Checkpoint, weights: Iterable[PackedItem], progress: Progress | None = None
    ) -> bool:
        """Keep these weights; False, with the reason in the log, when that is not possible.

        Of several processes that come here at once one writes, and the others go on without.
        """
        items = list(weights)
        size = sum(len(item.data) for item in items)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder) as mine:
                if not mine:
                    logger.info("event=packed_not_kept reason=another process is writing")
                    return False
                if not _make_room(self.folder, self.path, size + HEADER_BYTES):
                    logger.warning(
                        "event=packed_not_kept reason=no room folder=%s bytes=%d", self.folder, size
                    )
                    return False
                write_checkpoint(
                    self.path, source, items, {}, cache_key=self.key, progress=progress
                )
        except OSError as error:
            logger.warning("event=packed_not_kept folder=%s reason=%s", self.folder, error)
            return False
        logger.info("event=packed_kept path=%s bytes=%d", self.path, size)
        return True


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is ours to write while this lasts; waits for nobody."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _make_room(folder: Path, target: Path, needed: int) -> bool:
    """Remove files until `needed` bytes fit into the folder's share; False if they never do.

    `target` is about to be replaced, and parts of files are what a writer that died left behind.
    """
    kept: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        if path.name.startswith(".") and SUFFIX in path.name:
            path.unlink(missing_ok=True)
        elif path.suffix == SUFFIX and path != target:
            status = path.stat()
            kept.append((status.st_mtime, status.st_size, path))
    used = sum(size for _, size, _ in kept)
    replaced = target.stat().st_size if target.exists() else 0
    free = shutil.disk_usage(folder).free
    share = int(SHARE_OF_DISK * (free + used + replaced))
    if needed > share:
        return False
    for _, size, path in sorted(kept):
        if used + needed <= share and needed <= free:
            break
        logger.info("event=packed_removed path=%s bytes=%d", path, size)
        path.unlink(missing_ok=True)
        used, free = used - size, free + size
    return needed <= free
