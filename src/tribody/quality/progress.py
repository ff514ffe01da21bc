"""What a long measurement tells its caller while it runs."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """A stage begins, then advances to its total; then the next begins."""

    def begin(self, stage: str, total: int) -> None:
        """`total` counts whatever the stage works on: bytes, items or tokens."""
        ...

    def advance(self, count: int) -> None: ...
