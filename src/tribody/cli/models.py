"""Model names to files, with a progress bar on standard error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tribody.cli.environment import Environment
from tribody.loading import hub


def fetch(name: str, environment: Environment, *, verify: bool = False) -> Path:
    """The folder or file of a model; downloads it when it is not in the cache.

    Raises: BadConfig, DownloadFailed.
    """
    bars = _Bars(f"fetching {os.path.basename(name)}", environment)
    try:
        return hub.resolve(name, cache_dir=environment.cache_dir, progress=bars.show, verify=verify)
    finally:
        bars.close()


class _Bars:
    """A progress bar that appears when there is progress, so not for a look into the cache."""

    def __init__(self, title: str, environment: Environment) -> None:
        self._title, self._environment = title, environment
        self._update: Callable[[int, int | None], None] | None = None
        self._stop: Callable[[], None] = lambda: None

    def show(self, done_bytes: int, total_bytes: int | None) -> None:
        if self._update is None:
            self._begin()
        assert self._update is not None
        self._update(done_bytes, total_bytes)

    def close(self) -> None:
        self._stop()

    def _begin(self) -> None:
        # Imported here: 30 ms that a start from the cache need not spend.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, no_color=self._environment.no_color or None),
            transient=True,
        )
        task = bars.add_task(self._title)
        bars.start()
        self._stop = bars.stop
        self._update = lambda done, total: bars.update(task, completed=done, total=total)
