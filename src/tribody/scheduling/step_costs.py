"""What steps cost at one load, measured as they come, and when to measure again.

Seconds that the scheduler was told, nothing else: no clock, no model, no machine.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Final

FIRST_PROBE: Final = 6
PROBE_STEPS: Final = 96
# Steps from one trial to the next.  A trial takes two (one drafts, one checks) and costs less than
# one step's time: about 1 % where drafts do not pay.
DEAR_TRIAL: Final = 4  # sequences per PROBE_STEPS: a trial drafts for all, and indexes their texts

MEAN_WINDOW: Final = 10.0  # steps over which the mean step is averaged
ROW_SAMPLES: Final = 15  # comparisons whose median is the cost of a row
FIXED_ROWS: Final = 4.0  # the guess: a step without drafts takes the time of its rows and 4 more
FIRST_FOUND: Final = 0.75e-3  # what the look-ups of 50 sequences cost: they are tried at first
LEAST_ROW_SHARE: Final = 0.01  # no row is cheaper, in steps without drafts and per sequence


@dataclass(slots=True)
class Schedule:
    """When something is to be tried again: soon at first, then every PROBE_STEPS."""

    waited: int = 0
    interval: int = FIRST_PROBE

    @property
    def due(self) -> bool:
        return self.waited >= self.interval

    def wait(self) -> None:
        self.waited += 1

    def done(self, num_decoding: int) -> None:
        if self.due:
            most = PROBE_STEPS * max(1, num_decoding // DEAR_TRIAL)
            self.interval = min(2 * self.interval, most)
        self.waited = 0


class StepCosts:
    """Times of steps at one load: their recent mean, and what a draft row adds.

    A step whose number of draft rows is unlike that of the recent steps says what a row costs, by
    comparison with them alone: so a text that grows, or a machine that slows down, does not pass
    for a cost of drafts.  The median of such samples stands, because a step may be interrupted.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        # Recent means: sequences, draft rows, and seconds without the drafter.
        self.decoding = self.rows = self.seconds = 0.0
        self.module_seconds = 0.0  # of one pass of the drafter; 0 = never seen
        self.trial = Schedule()  # of steps unlike the recent ones
        self.module_trial = Schedule()  # of passes of the drafter, or of one more than usual
        self.found = FIRST_FOUND  # seconds that a step's look-ups save, a mean
        self.rest = 0  # steps in which nothing is to be asked but whether a trial is due
        self._samples: deque[float] = deque(maxlen=ROW_SAMPLES)
        self._row: float | None = None  # their median

    def add(self, num_decoding: int, rows: int, seconds: float) -> None:
        self.num_steps += 1
        if self.num_steps == 1:
            self.decoding, self.rows, self.seconds = num_decoding, rows, seconds
            return
        # A class holds several numbers of sequences: the mean is taken to this one.
        usual = self.seconds * self._size(num_decoding) / self._size(self.decoding)
        off, late = rows - self.rows, seconds - usual
        self.trial.wait()
        if 2 * abs(off) >= num_decoding:
            self.trial.done(num_decoding)
            self._samples.append(late / off)
            self._row = None
        share = 1 / min(self.num_steps, MEAN_WINDOW)
        self.decoding += share * (num_decoding - self.decoding)
        self.rows += share * off
        self.seconds = usual + share * min(late, usual)  # a step may be interrupted
        self.seconds *= self._size(self.decoding) / self._size(num_decoding)

    def add_module(self, seconds: float) -> None:
        """One pass of the drafter took so long."""
        share = 1 / MEAN_WINDOW if self.module_seconds else 1.0
        self.module_seconds += share * (seconds - self.module_seconds)

    def _size(self, num_decoding: float) -> float:
        """A step's time in rows, as it is guessed; without its draft rows' difference."""
        return num_decoding + FIXED_ROWS + self.rows

    def costs(self, num_decoding: int) -> tuple[float, float]:
        """(seconds of a step without drafts, seconds that one draft row adds)."""
        if not self.num_steps:
            return 1.0, 1.0 / (num_decoding + FIXED_ROWS)
        size = self._size(self.decoding)
        seconds = self.seconds * self._size(num_decoding) / size
        if self._row is None:
            self._row = median((*self._samples, self.seconds / size))
        least = LEAST_ROW_SHARE / num_decoding
        row = max(self._row, least * seconds / (1 + least * self.rows))
        return max(seconds - row * self.rows, 0.1 * seconds), row
