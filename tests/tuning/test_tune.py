"""`tribody tune`'s search over a machine that is only numbers, and its statistics."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import pytest

from tribody.core.clock import ManualClock
from tribody.ops.table import Setting, Tunable
from tribody.tuning.autotune import LEAST_GAIN, LOOKS, Bench, Found, Goal, Search
from tribody.tuning.paired import paired_ratio

Settings = Mapping[str, Setting]

TILE = Tunable("tile", 64, (16, 32, 64, 128), "rows of a tile")
SPIN = Tunable("spin", 50, (0, 50, 200), "microseconds of spinning")
STEP = Tunable("step", 512, (256, 512, 1024), "tokens of a step", ("prefill",))
SPACE = (TILE, SPIN, STEP)


class Silent:
    def begin(self, stage: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


class Simulated:
    """A machine whose times are a function of the settings, times noise and drift."""

    def __init__(
        self,
        slowness: Callable[[Settings, str], float],
        noise: float = 0.0,
        changing: tuple[tuple[str, Setting], ...] = (),
    ) -> None:
        self._slowness, self._noise, self._changing = slowness, noise, changing
        self._random = random.Random(7)
        self.clock = ManualClock()
        self.timed: list[tuple[dict[str, Setting], str]] = []
        self.compared: list[dict[str, Setting]] = []

    def seconds(self, settings: Settings, phase: str) -> float:
        self.timed.append((dict(settings), phase))
        drift = 1 + 0.3 * math.sin(self.clock.now() / 20)
        seconds = self._slowness(settings, phase) * drift
        seconds *= math.exp(self._random.gauss(0, self._noise))
        self.clock.advance(seconds)
        return seconds

    def same_results(self, settings: Settings, tolerance: float) -> bool:
        self.compared.append(dict(settings))
        return not any(settings.get(name) == value for name, value in self._changing)

    def search(self, goal: Goal = "both", seconds: float = 200.0) -> Found:
        bench = Bench(self.seconds, self.same_results, lambda phase: f"a {phase}")
        return Search(bench, SPACE, goal, self.clock, Silent()).run(seconds)


def small_tiles_are_better(settings: Settings, phase: str) -> float:
    """A fifth faster at tiles of 16; spinning and steps make no difference."""
    return 0.1 * {16: 0.8, 32: 0.9, 64: 1.0, 128: 1.2}[int(settings.get("tile", 64))]


def nothing_matters(settings: Settings, phase: str) -> float:
    return 0.1


def test_the_best_value_is_found_through_noise_and_drift() -> None:
    found = Simulated(small_tiles_are_better, noise=0.01).search()
    assert found.settings == {"tile": 16}
    tile = found.outcomes[0]
    assert (tile.name, tile.default, tile.chosen) == ("tile", 64, 16)
    assert tile.gain is not None
    assert tile.gain.low < 0.2 < tile.gain.high
    for phase in ("decode", "prefill"):
        assert found.phases[phase].gain.share == pytest.approx(0.2, abs=0.02)
        assert found.phases[phase].unit == f"a {phase}"


def test_noise_alone_changes_nothing() -> None:
    """A/A: values that make no difference must not be taken, whatever their luck."""
    found = Simulated(nothing_matters, noise=0.03).search(seconds=400.0)
    assert found.settings == {}
    assert all(outcome.chosen == outcome.default for outcome in found.outcomes)
    for phase in found.phases.values():
        assert phase.gain.low < 0 < phase.gain.high


def test_a_gain_too_small_to_matter_is_left() -> None:
    def slowness(settings: Settings, phase: str) -> float:
        return 0.1 * (1 - 0.6 * LEAST_GAIN * (settings.get("spin", 50) == 200))

    found = Simulated(slowness).search()
    assert found.settings == {}
    assert found.outcomes[1].gain is not None
    assert "came closest" in found.outcomes[1].why


def test_a_value_that_changes_results_is_refused() -> None:
    machine = Simulated(small_tiles_are_better, noise=0.005, changing=(("tile", 16),))
    found = machine.search()
    assert {"tile": 16} in machine.compared
    assert 16 not in found.settings.values()
    assert "changes the model's results" in found.outcomes[0].why


def test_values_that_only_help_together_are_found_in_another_pass() -> None:
    """Long spinning helps once tiles are small, so the first pass may meet it too early."""

    def slowness(settings: Settings, phase: str) -> float:
        small, spins = settings.get("spin", 50) == 0, settings.get("tile", 64) == 16
        return 0.1 * (1 - 0.1 * small - 0.1 * (small and spins))

    found = Simulated(slowness, noise=0.002).search(seconds=600.0)
    assert found.settings == {"spin": 0, "tile": 16}


def test_the_goal_says_what_is_timed_and_all_is_shown() -> None:
    machine = Simulated(small_tiles_are_better)
    found = machine.search("latency")
    assert "does not touch" in found.outcomes[2].why
    searched = machine.timed[2 : -4 * LOOKS[-1]]
    assert {phase for _, phase in searched} == {"decode"}
    assert set(found.phases) == {"decode", "prefill"}
    assert set(Simulated(small_tiles_are_better).search("throughput").phases) == {
        "throughput",
        "decode",
        "prefill",
    }


def test_the_time_is_kept() -> None:
    for seconds in (20.0, 60.0, 200.0):
        machine = Simulated(small_tiles_are_better, noise=0.01)
        machine.search(seconds=seconds)
        assert machine.clock.now() < 1.2 * seconds
    short = Simulated(small_tiles_are_better).search(seconds=1.0)
    assert short.settings == {}
    assert all("no time" in outcome.why for outcome in short.outcomes)


def test_what_is_not_faster_as_a_whole_is_not_kept() -> None:
    """A machine that punishes whatever was taken, once the search is over."""
    ending: list[bool] = []

    def slowness(settings: Settings, phase: str) -> float:
        return 0.1 * (1.5 if ending and settings else small_tiles_are_better(settings, phase) * 10)

    machine = Simulated(slowness, noise=0.002)

    class Watching(Silent):
        def begin(self, stage: str, total: int) -> None:
            if stage == "defaults against the whole":
                ending.append(True)

    bench = Bench(machine.seconds, machine.same_results, str)
    found = Search(bench, SPACE, "both", machine.clock, Watching()).run(200.0)
    assert ending
    assert found.settings == {}
    assert "whole" in found.outcomes[0].why
    assert found.outcomes[0].chosen == 64


def test_the_interval_is_that_of_the_ranks() -> None:
    """Eight rounds: from the least to the largest ratio, which miss the median once in 128."""
    twos = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    ratio = paired_ratio([2.0] * 8, twos)
    assert ratio.low == pytest.approx(math.log(2 / 1.7))
    assert ratio.high == pytest.approx(math.log(2 / 1.0))
    assert ratio.middle == pytest.approx(math.log(2 / 1.3) / 2 + math.log(2 / 1.4) / 2)
    assert ratio.gain.share == pytest.approx(1 - math.exp(-ratio.middle))
    few = paired_ratio([2.0] * 7, twos[:7])
    assert (few.low, few.high) == (-math.inf, math.inf)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random_numbers = random.Random(3)
    misses = 0
    for _ in range(2000):
        ones = [math.exp(random_numbers.gauss(0, 0.1)) for _ in range(16)]
        twos = [math.exp(random_numbers.gauss(0, 0.1)) for _ in range(16)]
        ratio = paired_ratio(ones, twos)
        misses += not ratio.low <= 0 <= ratio.high
    assert misses <= 2000 * 0.01 + 3 * math.sqrt(2000 * 0.01)
