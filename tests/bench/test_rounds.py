"""Rounds over engines that only pretend: their order, resuming, slow cells and peers that die."""

from contextlib import ExitStack
from pathlib import Path

import pytest

import machine
import rounds
from cells import CELLS, Pairing
from dsv3_mini import CONFIG
from measurements import rows_of
from model_files import ModelFiles
from peer_process import PeerFailed
from progress import Forecast, Progress, clock
from records import RecordFile, of_kind
from tribody.models.config import read_config

PAIRING = Pairing("8-bit", "w8g32", ("Q8_0",), ("float32",), ("prefill-512", "batch-8"))


class Pretended:
    """A process that answers at once; `dies` names programs that end over their first timing."""

    asked: list[tuple[str, str, str]] = []  # noqa: RUF012  # what all processes were asked
    dies: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __init__(self, program: str, python: Path | None = None) -> None:
        if program in self.missing:
            raise PeerFailed(f"{program} is missing")
        self.program = program

        self.pid = 0

    def close(self) -> None:
        pass

    def ask(self, op: str, **arguments: object) -> dict[str, object]:
        if op == "load":
            facts = {"version": "1", "system": "s", "weight_bytes": 1000}
            return facts | ({"threads": 2} if self.program == "tribody" else {})
        if self.program in self.dies:
            raise PeerFailed(f"{self.program} ended")
        cell = arguments["cell"]
        assert isinstance(cell, dict)
        self.asked.append((self.program, str(arguments["variant"]), str(cell["name"])))
        return {"seconds": 0.5, "steps": cell["steps"]}


class Quiet:
    """A machine with nothing else to do; `shares` are taken first, one an attempt."""

    shares: list[float] = []  # noqa: RUF012

    def __init__(self, pids: list[int]) -> None:
        pass

    def share(self) -> float:
        return self.shares.pop(0) if self.shares else 0.0


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Makes a bench over the same file each time, as a run that is resumed does."""
    Pretended.asked, Pretended.dies, Pretended.missing = [], (), ()
    monkeypatch.setattr(rounds, "PeerProcess", Pretended)
    monkeypatch.setattr(rounds, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "OtherWork", Quiet)
    monkeypatch.setattr(machine, "read_bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(machine, "int8_rate", lambda *_: 1e9)
    monkeypatch.setattr(ModelFiles, "gguf", lambda *_: Path("x.gguf"))
    monkeypatch.setattr(ModelFiles, "hf_folder", lambda *_: Path("x"))

    def make(count: int) -> RecordFile:
        file = RecordFile(tmp_path)
        settings = rounds.Settings(
            count, 0, None, with_peers=True, patience_seconds=0.0, pythons={}
        )
        cells = [cell for cell in CELLS if cell.name in PAIRING.cells]
        files = ModelFiles("dsv3-mini", tmp_path, tmp_path, None)
        bench = rounds.Rounds(
            files, read_config(CONFIG), PAIRING, cells, settings, file, Progress()
        )
        with ExitStack() as stack:
            bench.start(stack)
            bench.run()
        return file

    return make


def test_order_turns_round_by_round(bench) -> None:
    file = bench(2)
    first = [(program, variant) for program, variant, cell in Pretended.asked[:4]]
    forwards = [(e.program, e.variant) for e in PAIRING.engines]
    assert first == forwards[::-1]  # round 0
    assert [(p, v) for p, v, _ in Pretended.asked[8:12]] == forwards  # round 1
    assert len(Pretended.asked) == 3 * 2 * 4
    assert {row.cell for row in rows_of(file.records)} == {"prefill-512", "batch-8"}
    assert len(of_kind(file.records, "limits")) == 3


def test_a_resumed_run_warms_up_and_makes_what_is_left(bench) -> None:
    bench(1)
    Pretended.asked = []
    bench(2)
    assert len(Pretended.asked) == 2 * 8  # round 0 again, and round 2


def test_a_peer_that_is_missing_is_left_out(bench) -> None:
    Pretended.missing = ("transformers",)
    bench(1)
    assert {program for program, _, _ in Pretended.asked} == {"tribody", "llama.cpp"}


def test_a_peer_that_dies_is_left_out(bench) -> None:
    Pretended.dies = ("llama.cpp",)
    rows = rows_of(bench(1).records)
    assert [row.best("llama.cpp") for row in rows] == [None, None]
    assert all(row.best("transformers") for row in rows)


def test_a_slow_cell_of_transformers_is_measured_once(bench, monkeypatch) -> None:
    monkeypatch.setattr(rounds, "SLOW_SECONDS", -1.0)
    rows = rows_of(bench(2).records)
    rounds_of = {
        program: [series.rounds for row in rows if (series := row.best(program)) is not None]
        for program in ("transformers", "llama.cpp")
    }
    assert rounds_of == {"transformers": [(0,), (0,)], "llama.cpp": [(1, 2), (1, 2)]}


def test_a_disturbed_timing_is_made_again_and_the_least_disturbed_is_kept(bench) -> None:
    Quiet.shares = [0.5, 0.3, 0.4, 0.2, 0.05, 0.5]
    samples = of_kind(bench(1).records, "sample")
    assert [sample["other_work"] for sample in samples[:4]] == [0.3, 0.05, 0.0, 0.0]
    assert len(Pretended.asked) == 16 + 2 + 1 + 1


def test_tribody_must_not_die(bench) -> None:
    Pretended.dies = ("tribody",)
    with pytest.raises(PeerFailed):
        bench(1)


def test_sequences_by_depth() -> None:
    assert rounds.sequences(CELLS) == {
        "prefill": 2048,
        "0": 1,
        "1024": 1,
        "4096": 1,
        "128": 32,
    }


def test_forecasts() -> None:
    forecast = Forecast()
    assert forecast.of(["a"]) is None
    forecast.took("a", 2.0)
    forecast.took("b", 4.0)
    assert forecast.of(["a", "a", "b", "unknown"]) == 2 + 2 + 4 + 3
    assert [clock(s) for s in (5, 95, 3725)] == ["0:05", "1:35", "1:02:05"]
