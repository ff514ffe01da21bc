"""One model and one pairing: its processes, and rounds of timings that are written down at once.

Round 0 warms up.  In every round each cell is run on all engines back to back, and their order
turns round by round, so that a drift of the machine meets all alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import machine
from cells import TRANSFORMERS_CELLS, Cell, Engine, Pairing
from measurements import OURS
from model_files import ModelFiles
from other_work import DISTURBED_SHARE, OtherWork, wait_for_quiet
from peer_process import PeerFailed, PeerProcess
from progress import Progress
from records import RecordFile, of_kind
from tribody.models.config import ModelConfig
from work import num_weights, work_of

LIMIT_SECONDS = 0.3  # a round and limit: some fifty passes over 143 MB at 25 GB/s
PAUSE_SECONDS = 0.05  # between two engines: the first one's threads have stopped spinning
ATTEMPTS = 3  # at a timing that other work disturbs
SLOW_SECONDS = 20.0  # a peer's cell that takes longer than this in round 0 is measured only there


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run asks of every model.  Interpreters: None is this one."""

    rounds: int
    threads: int  # 0 = physical cores
    isa: str | None
    with_peers: bool
    patience_seconds: float  # before each timing, for other work to end
    pythons: dict[str, Path | None]


@dataclass(frozen=True, slots=True)
class Job:
    """One timing to make."""

    engine: Engine
    cell: Cell
    round: int


@dataclass(slots=True)
class Rounds:
    """`start` the engines, then `run`."""

    files: ModelFiles
    config: ModelConfig
    pairing: Pairing
    cells: Sequence[Cell]
    settings: Settings
    file: RecordFile
    progress: Progress
    _processes: dict[tuple[str, str], PeerProcess] = field(default_factory=dict)
    _threads: int = 0
    _weight_bytes: int = 0  # tribody's

    @property
    def _place(self) -> dict[str, object]:
        return {"model": self.files.name, "pairing": self.pairing.name}

    # ---- start

    def start(self, stack: ExitStack) -> None:
        """Load every engine; a peer that cannot be had is left out, and that is said.

        Raises: PeerFailed when tribody itself cannot be loaded.
        """
        self._threads = self.settings.threads
        ours, *peers = dict.fromkeys(replace(e, variant="") for e in self.pairing.engines)
        answer = self._load(stack, ours)
        self._threads, self._weight_bytes = int(answer["threads"]), int(answer["weight_bytes"])
        for peer in peers if self.settings.with_peers else ():
            try:
                self._load(stack, peer)
            except PeerFailed as problem:
                self.progress.say(f"left out: {problem}")
        for cell in self.cells:
            facts = {"cell": cell.name, "title": cell.title, "batch": cell.batch}
            work = asdict(work_of(self.config, cell))
            self.file.add("cell", {**self._place, **facts, "tokens": cell.num_tokens, **work})

    def _load(self, stack: ExitStack, engine: Engine) -> dict[str, float]:
        """Raises: PeerFailed."""
        self.progress.say(f"{self.files.name}: loading {engine.label}")
        process = PeerProcess(engine.program, self.settings.pythons.get(engine.program))
        stack.callback(process.close)
        answer = process.ask("load", threads=self._threads, **self._load_arguments(engine))
        size = float(str(answer["weight_bytes"]))
        bits = answer.get("bits_per_weight") or 8 * size / num_weights(self.config)
        facts = {"program": engine.program, "weights": engine.weights, "bits_per_weight": bits}
        self.file.add("engine", {**self._place, **answer, **facts})
        self._processes[engine.program, engine.weights] = process
        return {"weight_bytes": size, "threads": float(str(answer.get("threads", self._threads)))}

    def _load_arguments(self, engine: Engine) -> dict[str, object]:
        if engine.program == "llama.cpp":
            path = self.files.gguf(engine.weights, self.progress.say)
            return {"path": str(path), "sequences": sequences(self.cells)}
        if engine.program == "transformers":
            path = self.files.hf_folder(self.progress.say)
            return {"path": str(path), "weights": engine.weights}
        batch = max(cell.batch for cell in self.cells)
        packed = Path(engine.weights)
        if packed.is_file():  # its own formats, chosen when it was packed
            where = {"path": str(packed.resolve()), "weights": ""}
        else:
            where = {"path": str(self.files.path), "weights": engine.weights}
        return {**where, "isa": self.settings.isa, "batch": batch}

    # ---- run

    def run(self) -> None:
        """Every timing that the file does not hold yet, and the warm-up, which new processes need.

        Raises: PeerFailed for tribody's.
        """
        jobs = [job for job in self._jobs() if not (job.round and self._is_done(job))]
        slow: set[tuple[Engine, Cell]] = set()
        number = -1
        for index, job in enumerate(jobs):
            at = (job.engine, job.cell)
            if (job.engine.program, job.engine.weights) not in self._processes or at in slow:
                continue
            if job.round != number:
                number = job.round
                self._measure_limits(number)
            stage = f"{self.files.name} {self.pairing.name} round {number}/{self.settings.rounds}"
            left = [self._work(other) for other in jobs[index:]]
            self.progress.show(stage, f"{job.cell.name}, {job.engine.label}", index, left)
            started = time.perf_counter()
            self._time(job)
            seconds = time.perf_counter() - started
            self.progress.forecast.took(self._work(job), seconds)
            if number == 0 and seconds > SLOW_SECONDS and job.engine.program == "transformers":
                slow.add(at)
                self.progress.say(f"{job.cell.name} is measured once on {job.engine.label}: slow")

    def _jobs(self) -> Iterator[Job]:
        engines = [e for e in self.pairing.engines if (e.program, e.weights) in self._processes]
        for number in range(self.settings.rounds + 1):
            for cell in self.cells:
                for engine in engines if number % 2 else reversed(engines):
                    if engine.program != "transformers" or cell.name in TRANSFORMERS_CELLS:
                        yield Job(engine, cell, number)

    def _work(self, job: Job) -> tuple[str, str, Engine, Cell, bool]:
        """What takes the same time whenever it is done; a warm-up takes longer."""
        return (self.files.name, self.pairing.name, job.engine, job.cell, job.round == 0)

    def _sample(self, job: Job) -> dict[str, object]:
        return {**self._place, "cell": job.cell.name, "round": job.round, **asdict(job.engine)}

    def _is_done(self, job: Job) -> bool:
        wanted = self._sample(job).items()
        return any(wanted <= sample.items() for sample in of_kind(self.file.records, "sample"))

    def _time(self, job: Job) -> None:
        """Write a sample; the least disturbed one when other work takes too much of the machine.

        A peer that dies over it is left out from then on.
        """
        try:
            made = self._attempt(job)
            for _ in range(ATTEMPTS - 1):
                if made["other_work"] <= DISTURBED_SHARE:
                    break
                made = min(made, self._attempt(job), key=lambda sample: sample["other_work"])
        except PeerFailed as problem:
            if job.engine.program == OURS:
                raise
            del self._processes[job.engine.program, job.engine.weights]
            self.progress.say(f"left out: {problem}")
            return
        self.file.add("sample", {**self._sample(job), **made})

    def _attempt(self, job: Job) -> dict[str, float]:
        """One timing.  Raises: PeerFailed."""
        engine, cell = job.engine, job.cell
        time.sleep(PAUSE_SECONDS)
        wait_for_quiet(self.settings.patience_seconds, self._pids)
        others = OtherWork(self._pids)
        answer = self._processes[engine.program, engine.weights].ask(
            "run", cell=asdict(cell), variant=engine.variant, seed=job.round
        )
        share, steps = round(others.share(), 3), int(str(answer["steps"]))
        # A slow peer stops a decode early and says after how many steps.
        tokens = cell.batch * steps if cell.kind == "decode" else cell.depth
        return {"tokens": tokens, "seconds": float(str(answer["seconds"])), "other_work": share}

    @property
    def _pids(self) -> list[int]:
        """This process and the engines': what is not other work."""
        return [os.getpid(), *(process.pid for process in self._processes.values())]

    def _measure_limits(self, number: int) -> None:
        wait_for_quiet(self.settings.patience_seconds, self._pids)
        threads = self._threads
        weights = machine.read_bandwidth(self._weight_bytes, threads, LIMIT_SECONDS)
        memory = machine.read_bandwidth(machine.BEYOND_CACHES_BYTES, threads, LIMIT_SECONDS)
        limits = {
            "bytes_per_second": weights,
            "memory_bytes_per_second": memory,
            "macs_per_second": machine.int8_rate(threads, LIMIT_SECONDS),
        }
        self.file.add("limits", {**self._place, "round": number, **limits})


def sequences(cells: Sequence[Cell]) -> dict[str, int]:
    """How many sequences a peer must hold at each depth; "prefill": the longest prompt."""
    held: dict[str, int] = {}
    for cell in cells:
        name, count = str(cell.depth), cell.batch
        if cell.kind == "prefill":
            name, count = "prefill", cell.depth
        held[name] = max(held.get(name, 0), count)
    return held
