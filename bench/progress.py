"""What is being done and how long the rest will take.  On a terminal one line that changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable, Sequence


class Forecast:
    """Seconds of work that is still to be done, from the same work done before."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def took(self, work: Hashable, seconds: float) -> None:
        self._seconds[work] = seconds

    def of(self, works: Sequence[Hashable]) -> float | None:
        """Work that was never done counts as the mean of what was; None before anything was."""
        if not self._seconds:
            return None
        mean = sum(self._seconds.values()) / len(self._seconds)
        return sum(self._seconds.get(work, mean) for work in works)


class Progress:
    """On standard error: a bar on a terminal, a line for each new stage elsewhere."""

    WIDTH = 24

    def __init__(self) -> None:
        self.forecast = Forecast()
        self._is_terminal = sys.stderr.isatty()
        self._stage = ""

    def say(self, text: str) -> None:
        self._write(text + "\n")

    def show(self, stage: str, detail: str, done: int, left: Sequence[Hashable]) -> None:
        """`done` pieces of work of this stage are behind, those of `left` ahead."""
        seconds = self.forecast.of(left)
        rest = "" if seconds is None else f", {clock(seconds)} left"
        if self._is_terminal:
            filled = self.WIDTH * done // max(1, done + len(left))
            bar = "#" * filled + "." * (self.WIDTH - filled)
            self._write(f"{stage} [{bar}] {detail}{rest}")
        elif stage != self._stage:
            self._write(f"{stage}{rest}\n")
        self._stage = stage

    def _write(self, text: str) -> None:
        print(f"\r\x1b[K{text}" if self._is_terminal else text, end="", file=sys.stderr, flush=True)


class Stages:
    """A `tribody.quality.progress.Watcher`: each stage a line with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def begin(self, stage: str, total: int) -> None:
        after = clock(time.monotonic() - self._started)
        print(f"  {after} {stage} ({total})", file=sys.stderr, flush=True)

    def advance(self, count: int) -> None: ...


def clock(seconds: float) -> str:
    """For people: 95 -> "1:35"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
