"""Where the time of a decode step goes: exclusive seconds of each operator and of each stage.

Wraps the operators' methods and the stages' functions with timers for the length of a run.  A timer
costs about a microsecond a call, some 0.2 ms in a step of a 30-layer model, charged to the caller.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from subject import Shape, Subject
from tribody.engine import model_executor
from tribody.engine.engine import Engine
from tribody.engine.model_executor import ModelExecutor
from tribody.memory.kv_store import KVStore
from tribody.models.llama import Llama
from tribody.ops.native import NativeOps
from tribody.scheduling.scheduler import Scheduler

OPERATORS = (
    "embed",
    "linear",
    "norm_linear",
    "norm_mlp",
    "rope_store",
    "attend",
    "rms_norm",
    "argmax",
    "top_logprobs",
)
STAGES: tuple[tuple[object, str, str], ...] = (
    (Engine, "step", "engine: events, stop strings"),
    (Scheduler, "plan", "scheduler.plan"),
    (Scheduler, "apply", "scheduler.apply"),
    (ModelExecutor, "run", "executor: order, rows"),
    (KVStore, "copy_pages", "page copies"),
    (Llama, "forward", "model: between operators"),
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


@contextmanager
def watching(times: Times) -> Iterator[None]:
    """Put the timers in and take them out again."""
    places = [(NativeOps, name, f"op {name}") for name in OPERATORS] + list(STAGES)
    originals = [(owner, name, getattr(owner, name)) for owner, name, _title in places]
    try:
        for owner, name, title in places:
            setattr(owner, name, times.wrap(title, getattr(owner, name)))
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def show(subject: Subject, shapes: Sequence[Shape], console: Console) -> None:
    """Run each decode shape once with timers and print milliseconds a step."""
    for shape in shapes:
        if shape.kind != "decode":
            continue
        subject.run(shape, seed=90)  # the first run of a shape pays for its buffers
        times = Times()
        subject.fill(shape, seed=91)
        with watching(times):
            subject.decode(shape)
        subject.drain()
        console.print(table(shape, times))


def table(shape: Shape, times: Times) -> Table:
    """Milliseconds a step of everything that was timed, the largest first."""
    shown = Table(title=f"{shape.title}: where a step's time goes")
    for heading in ("where", "calls a step", "ms a step", "share"):
        shown.add_column(heading, justify="left" if heading == "where" else "right")
    total = sum(times.seconds.values())

    def add(name: str, calls: str, seconds: float) -> None:
        milliseconds = seconds / shape.steps * 1e3
        shown.add_row(name, calls, f"{milliseconds:.3f}", f"{seconds / total:.1%}")

    for name, seconds in sorted(times.seconds.items(), key=lambda item: -item[1]):
        add(name, f"{times.calls[name] / shape.steps:.0f}", seconds)
    shown.add_section()
    operators = sum(s for name, s in times.seconds.items() if name.startswith("op "))
    add("all operators", "", operators)
    add("Python around them", "", total - operators)
    add("whole step", "", total)
    return shown
