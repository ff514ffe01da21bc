"""The search of `tribody tune`: coordinate descent over a table of tunables, by paired timings.

One tunable after the other.  Its values race: in each round every one still in it and the value
in force are timed in turns, and the worse half leaves (successive halving).  If the winner looks
faster, it is checked that the model's results stay what they were; then it meets the value in force
in a duel of fresh rounds, and is taken only if the interval of the ratio excludes "no faster".  So
a value that won its race by luck is sent home.  Another pass follows while there is time and the
last one changed something.  At the end the defaults meet the whole in a last duel, whose figures
are those that are reported; if the whole is not faster, the defaults stay.

The search knows neither models nor clocks of its own: it is given functions that time and compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import msgspec

from tribody.core.clock import Clock
from tribody.engine.tuned import Gain, Outcome, PhaseTime
from tribody.ops.table import Setting, Tunable
from tribody.quality.progress import Watcher
from tribody.tuning.paired import Ratio, paired_ratio

Goal = Literal["both", "latency", "prefill", "throughput"]
Settings = Mapping[str, Setting]

PHASES: Mapping[Goal, tuple[str, ...]] = {
    "both": ("decode", "prefill"),
    "latency": ("decode",),
    "prefill": ("prefill",),
    "throughput": ("throughput",),
}
SHOWN = ("decode", "prefill")  # in the last duel, whatever the goal

RACE_ROUNDS = 4
LEAST_GAIN = 0.01  # of the time: less is not worth a setting of its own
HOPEFUL = 0.005  # a race's winner below this meets nobody in a duel
LOOKS = (8, 12, 16, 24)  # rounds of a duel after which it may end
FINAL_ROUNDS = 16
FINAL_SHARE = 0.2  # of the time, for the last duel
FAIR_SHARES = 2.0  # a tunable may take so many times its share of the time that is left


@dataclass(frozen=True)
class Bench:
    """What the search asks: seconds of one unit of a phase, whether the results stay, and units."""

    seconds: Callable[[Settings, str], float]
    same_results: Callable[[Settings, float], bool]
    unit: Callable[[str], str]


@dataclass(frozen=True)
class Found:
    """`settings`: those that differ from the defaults."""

    settings: dict[str, Setting]
    phases: dict[str, PhaseTime]
    outcomes: list[Outcome]


class Search:
    """One run over `space`, which ends about `seconds` after `started`."""

    def __init__(
        self,
        bench: Bench,
        space: Sequence[Tunable],
        goal: Goal,
        clock: Clock,
        watcher: Watcher,
    ) -> None:
        self._bench, self._space, self._goal = bench, space, goal
        self._clock, self._watcher = clock, watcher
        self._until = 0.0
        self._took: dict[str, float] = {}  # seconds that one timing of a phase takes
        self._settings: dict[str, Setting] = {}
        self._outcomes = {t.name: _untouched(t, "not tried: no time was left") for t in space}

    def run(self, seconds: float) -> Found:
        """Raises: EngineFailed."""
        end = self._clock.now() + seconds
        for phase in dict.fromkeys((*PHASES[self._goal], *SHOWN)):
            started = self._clock.now()
            self._bench.seconds({}, phase)
            self._took[phase] = self._clock.now() - started
        self._until = end - max(FINAL_SHARE * seconds, self._duel_seconds(self._took))
        changed = True
        while changed and self._clock.now() < self._until:
            changed = self._pass()
        phases = self._final(end)
        ratio = self._ratio_of(phases)
        if self._settings and not ratio > 0:
            for name in self._settings:
                why = "the whole was not faster than the defaults"
                self._outcomes[name] = msgspec.structs.replace(
                    self._outcomes[name], chosen=self._default(name), why=why
                )
            self._settings = {}
        return Found(dict(self._settings), phases, list(self._outcomes.values()))

    # ---- one pass

    def _pass(self) -> bool:
        """Every tunable once; whether any value changed."""
        before = dict(self._settings)
        for index, tunable in enumerate(self._space):
            left = self._until - self._clock.now()
            if left <= 0:
                break
            share = FAIR_SHARES * left / (len(self._space) - index)
            self._watcher.begin(tunable.name, RACE_ROUNDS + LOOKS[-1])
            self._try(tunable, min(self._until, self._clock.now() + share))
        return self._settings != before

    def _try(self, tunable: Tunable, until: float) -> None:
        phases = self._phases(tunable)
        others = [value for value in tunable.values if value != self._value(tunable)]
        if not phases or not others:
            why = "does not touch what was asked for" if others else "has no other value here"
            self._outcomes[tunable.name] = _untouched(tunable, why)
            return
        tried = self._race(tunable, others, phases, until)
        if not tried:
            return
        best = max(tried, key=tried.__getitem__)
        shares = {str(value): -math.expm1(-ratio) for value, ratio in tried.items()}
        if tried[best] < HOPEFUL:
            self._keep(tunable, "no other value was faster", shares)
            return
        if self._clock.now() + self._duel_seconds(phases) > self._until:
            self._keep(tunable, f"{best} looked faster: no time was left for a duel", shares)
            return
        candidate = self._with(tunable, best)
        if not self._bench.same_results(candidate, tunable.tolerance):
            self._keep(tunable, f"{best} changes the model's results", shares)
            return
        ratio = self._duel(self._settings, candidate, phases, until)
        if not (ratio.low > 0 and ratio.gain.share >= LEAST_GAIN):
            why = f"{best} came closest: not beyond the noise"
            self._keep(tunable, why, shares, ratio.gain)
            return
        self._settings = candidate
        self._outcomes[tunable.name] = msgspec.structs.replace(
            _untouched(tunable, f"{best} is faster"), chosen=best, gain=ratio.gain, tried=shares
        )

    def _keep(
        self, tunable: Tunable, why: str, tried: dict[str, float], gain: Gain | None = None
    ) -> None:
        """Another value was not taken; one that was taken before stands, with its own figures."""
        if tunable.name not in self._settings:
            self._outcomes[tunable.name] = msgspec.structs.replace(
                _untouched(tunable, why), gain=gain, tried=tried
            )

    def _race(
        self, tunable: Tunable, values: list[Setting], phases: Sequence[str], until: float
    ) -> dict[Setting, float]:
        """Log ratios of the time in force to each value's, medians of the rounds that it was in;
        none when the time did not reach for a round."""
        ratios: dict[Setting, list[float]] = {value: [] for value in values}
        alive = values
        for round_index in range(RACE_ROUNDS):
            order: list[Setting | None] = [None, *alive]
            times: dict[Setting | None, float] = {}
            for value in order if round_index % 2 else order[::-1]:
                if self._clock.now() > until:
                    break
                settings = self._settings if value is None else self._with(tunable, value)
                times[value] = self._log_time(settings, phases)
            if len(times) < len(order):
                break
            for value in alive:
                ratios[value].append(times[None] - times[value])
            self._watcher.advance(1)
            alive = sorted(alive, key=lambda value: -median(ratios[value]))
            alive = alive[: max(1, -(-len(alive) // 2))] if round_index else alive
        return {value: median(found) for value, found in ratios.items() if found}

    def _duel(
        self, first: Settings, second: Settings, phases: Sequence[str], until: float
    ) -> Ratio:
        """Fresh rounds until it is clear that the second is faster, or that it is not by much."""
        ones: list[float] = []
        twos: list[float] = []
        for look in LOOKS:
            while len(ones) < look:
                pair = self._pair(first, second, phases, turned=len(ones) % 2 == 1)
                ones.append(math.exp(pair[0]))
                twos.append(math.exp(pair[1]))
                self._watcher.advance(1)
            ratio = paired_ratio(ones, twos)
            if ratio.low > 0 or ratio.high < LEAST_GAIN or self._clock.now() > until:
                break
        return ratio

    def _duel_seconds(self, phases: Iterable[str]) -> float:
        """What the shortest duel takes."""
        return 2 * LOOKS[0] * sum(self._took[phase] for phase in phases)

    def _pair(
        self, first: Settings, second: Settings, phases: Sequence[str], *, turned: bool
    ) -> tuple[float, float]:
        if turned:
            two = self._log_time(second, phases)
            return self._log_time(first, phases), two
        one = self._log_time(first, phases)
        return one, self._log_time(second, phases)

    def _log_time(self, settings: Settings, phases: Sequence[str]) -> float:
        """The mean of the phases' logarithms: a saving of a tenth counts alike in each."""
        logs = [math.log(self._bench.seconds(settings, phase)) for phase in phases]
        return sum(logs) / len(logs)

    # ---- the last duel

    def _final(self, end: float) -> dict[str, PhaseTime]:
        """Defaults against the whole, each phase; with nothing taken, defaults against themselves,
        which shows the noise."""
        phases = list(dict.fromkeys((*PHASES[self._goal], *SHOWN)))
        times: dict[str, tuple[list[float], list[float]]] = {phase: ([], []) for phase in phases}
        self._watcher.begin("defaults against the whole", FINAL_ROUNDS)
        for index in range(FINAL_ROUNDS):
            if index >= LOOKS[0] and self._clock.now() > end:
                break
            for phase, (ones, twos) in times.items():
                one, two = self._pair({}, self._settings, [phase], turned=index % 2 == 1)
                ones.append(math.exp(one))
                twos.append(math.exp(two))
            self._watcher.advance(1)
        return {
            phase: PhaseTime(
                unit=self._bench.unit(phase),
                default_seconds=median(ones),
                tuned_seconds=median(twos),
                gain=paired_ratio(ones, twos).gain,
            )
            for phase, (ones, twos) in times.items()
        }

    def _ratio_of(self, phases: Mapping[str, PhaseTime]) -> float:
        """What the goal's phases gained together; 0 when it may be nothing."""
        gains = [phases[phase].gain for phase in PHASES[self._goal]]
        sure = any(gain.low > 0 for gain in gains)
        return sum(-math.log1p(-gain.share) for gain in gains) if sure else 0.0

    # ---- settings

    def _phases(self, tunable: Tunable) -> list[str]:
        wanted = PHASES[self._goal]
        return [p for p in wanted if p == "throughput" or p in tunable.phases]

    def _value(self, tunable: Tunable) -> Setting:
        return self._settings.get(tunable.name, tunable.default)

    def _default(self, name: str) -> Setting:
        return next(tunable.default for tunable in self._space if tunable.name == name)

    def _with(self, tunable: Tunable, value: Setting) -> dict[str, Setting]:
        """The settings in force with one more; a default is not listed."""
        settings = {**self._settings, tunable.name: value}
        if value == tunable.default:
            del settings[tunable.name]
        return settings


def _untouched(tunable: Tunable, why: str) -> Outcome:
    return Outcome(
        name=tunable.name,
        meaning=tunable.meaning,
        default=tunable.default,
        chosen=tunable.default,
        why=why,
    )
