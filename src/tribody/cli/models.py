"""Model names to files, with a progress bar on standard error."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tribody.cli.environment import Environment
from tribody.loading import hub


def fetch(name: str, environment: Environment, *, verify: bool = False) -> Path:
    """The folder or file of a model; downloads it when it is not in the cache.

    Raises: BadConfig, DownloadFailed.
    """
    console = Console(stderr=True, no_color=environment.no_color or None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = None

        def progress(done_bytes: int, total_bytes: int | None) -> None:
            nonlocal task
            if task is None:  # only now is it a download, and not a look into the cache
                task = bars.add_task(f"fetching {os.path.basename(name)}")
            bars.update(task, completed=done_bytes, total=total_bytes)

        return hub.resolve(name, cache_dir=environment.cache_dir, progress=progress, verify=verify)
