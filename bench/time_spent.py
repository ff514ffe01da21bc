"""Where the time of a step goes: exclusive seconds of each operator and of each stage.

Wraps the operators' methods and the stages' functions with timers for the length of a run.  Each
cell runs twice: as it is, with all layers in one call, which says what the interpreter takes; and
with the layers' operators called one by one, which says where the layers' own time goes.  A timer
costs about a microsecond a call, some 0.2 ms in such a step of a 30-layer model, charged to the
caller.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import isfunction
from typing import Any

from rich.console import Console
from rich.table import Table

from cells import Cell
from subject import Subject
from tribody.engine import model_executor
from tribody.engine.engine import Engine
from tribody.engine.model_executor import ModelExecutor
from tribody.memory.kv_store import KVStore
from tribody.models.deepseek_v3 import DeepseekV3
from tribody.models.llama import Llama
from tribody.ops.native import NativeLayers, NativeOps
from tribody.scheduling.scheduler import Scheduler

OPERATORS = tuple(name for name, method in vars(NativeOps).items() if isfunction(method))
STAGES: tuple[tuple[object, str, str], ...] = (
    (Engine, "step", "engine: events, stop strings"),
    (Scheduler, "plan", "scheduler.plan"),
    (Scheduler, "apply", "scheduler.apply"),
    (ModelExecutor, "run", "executor: order, rows"),
    (KVStore, "copy_pages", "page copies"),
    (NativeLayers, "run", "op layers"),
    (Llama, "forward", "model: between operators"),
    (DeepseekV3, "forward", "model: between operators"),
    (model_executor, "step_input", "ids to arrays"),
    (model_executor, "sample", "sampler"),
)


@dataclass
class Times:
    """Exclusive seconds and calls by name.  One thread only."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _children: list[float] = field(default_factory=lambda: [0.0])

    def wrap(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object, **named: object) -> object:
            self._children.append(0.0)
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                elapsed = time.perf_counter() - started
                self.seconds[name] += elapsed - self._children.pop()
                self.calls[name] += 1
                self._children[-1] += elapsed

        return timed


def run_parts(self: NativeLayers, *arguments: Any) -> None:
    """Takes the place of `NativeLayers.run`."""
    self.parts.run(*arguments)


@contextmanager
def watching(times: Times, *, by_operator: bool) -> Iterator[None]:
    """Put the timers in and take them out again."""
    places = [(NativeOps, name, f"op {name}") for name in OPERATORS] + list(STAGES)
    originals = [(owner, name, getattr(owner, name)) for owner, name, _title in places]
    try:
        for owner, name, title in places:
            if by_operator and owner is NativeLayers:
                setattr(owner, name, times.wrap("model: between operators", run_parts))
            else:
                setattr(owner, name, times.wrap(title, getattr(owner, name)))
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def show(subject: Subject, cells: Sequence[Cell], console: Console) -> None:
    """Run each cell once with timers and print milliseconds a step (of a decode) or in all."""
    for cell in cells:
        subject.run(cell, seed=90)  # the first run of a cell pays for its buffers
        for by_operator in (False, True):
            times = Times()
            if cell.kind == "prefill":
                with watching(times, by_operator=by_operator):
                    subject.prefill(cell, seed=91 + by_operator)
            else:
                requests = subject.fill(cell)
                with watching(times, by_operator=by_operator):
                    subject.decode(cell)
                subject.clear(requests)
            console.print(table(cell, times, "operator by operator" if by_operator else ""))


def table(cell: Cell, times: Times, how: str) -> Table:
    """Milliseconds of everything that was timed, the largest first."""
    shown = Table(title=", ".join(filter(None, (f"{cell.title}: where the time goes", how))))
    unit = "a step" if cell.steps else "in all"
    for heading in ("where", f"calls {unit}", f"ms {unit}", "share"):
        shown.add_column(heading, justify="left" if heading == "where" else "right")
    total = sum(times.seconds.values())
    steps = cell.steps or 1

    def add(name: str, calls: str, seconds: float) -> None:
        shown.add_row(name, calls, f"{seconds / steps * 1e3:.3f}", f"{seconds / total:.1%}")

    for name, seconds in sorted(times.seconds.items(), key=lambda item: -item[1]):
        add(name, f"{times.calls[name] / steps:.0f}", seconds)
    shown.add_section()
    operators = sum(s for name, s in times.seconds.items() if name.startswith("op "))
    add("all operators", "", operators)
    add("Python around them", "", total - operators)
    add("all", "", total)
    return shown
