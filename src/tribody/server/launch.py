"""Starting a model's engine process, with lines for people who wait for it.

Small on purpose, see `listening`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tribody.core.clock import MonotonicClock
from tribody.core.config import EngineConfig
from tribody.engine.client import EngineClient


@dataclass(frozen=True)
class NamedModel:
    """A model to serve and what its user calls it, such as `smollm2`."""

    name: str
    config: EngineConfig


def launch(model: NamedModel, say: Callable[[str], None]) -> EngineClient:
    """The client of an engine that has begun to load; in a running event loop."""
    return EngineClient.launch(model.config, progress=_LoadingLines(model.name, say))


class _LoadingLines:
    """Says how far a load is, at most every `EVERY_SECONDS`: small models load in silence."""

    EVERY_SECONDS = 5.0

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._clock = MonotonicClock()
        self._last = self._clock.now()
        say(f"loading {name}")

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now = self._clock.now()
        if now - self._last >= self.EVERY_SECONDS and total_bytes:
            self._last = now
            self._say(f"loading {self._name}: {done_bytes / total_bytes:.0%}")
