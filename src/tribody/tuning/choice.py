"""The allocation that a goal asks for: of the knapsack, or for a speed one of the frontier's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tribody.core.config import WeightFormat
from tribody.core.errors import BadConfig
from tribody.precision.allocate import Knapsack, Point
from tribody.tuning.decode_speed import Rates
from tribody.tuning.trial import Reading, Trial

ROUNDS = 3
# Of choosing.  Losses of single matrices, rounded plainly, predict the whole's only roughly; the
# whole is measured, the prediction scaled by what was found, and the choice made again.

CLOSE = 0.97  # of the budget used: another round is not worth its minutes


@dataclass(frozen=True)
class Goal:
    """The least recovery, the least speed (decoding against float16), or both; or the most bits."""

    recovery: float | None = None
    speed: float | None = None
    bits: float | None = None


class Choice:
    """Chooses; the trial then holds the chosen matrices.

    `exchange` fits and puts in the matrices of a point.  `rates` are needed for a speed;
    `correction` is what a timed mixture was found to differ from its prediction by.
    """

    def __init__(
        self,
        trial: Trial,
        readings: Sequence[Reading],
        points: Sequence[Point[WeightFormat]],
        knapsack: Knapsack[WeightFormat],
        exchange: Callable[[Point[WeightFormat]], None],
    ) -> None:
        self._trial, self._readings, self._points = trial, readings, points
        self._knapsack, self._exchange = knapsack, exchange
        self.rates: Rates | None = None
        self.correction = 1.0

    def speed(self, point: Point[WeightFormat]) -> float:
        """Predicted, as times of float16's."""
        assert self.rates is not None
        return self.correction * self.rates.speed(point.choices)

    def best(self, goal: Goal) -> Point[WeightFormat]:
        """The fewest bytes for a recovery; the least loss for bits or a speed.

        Where both a recovery and a speed are met, what is left over goes to the loss.
        Raises: BadConfig, saying what cannot be met and by how much.
        """
        if goal.bits is not None:
            return self._taken(self._within_bits(goal.bits))
        smallest = None if goal.recovery is None else self._within_budget(goal.recovery)
        if goal.speed is None:
            assert smallest is not None
            return self._taken(smallest)
        fast = next((p for p in self._points if self.speed(p) >= goal.speed), None)
        if fast is None:
            raise BadConfig(
                f"--target-speed {goal.speed:g}: the smallest formats decode about "
                f"{self.speed(self._points[-1]):.2f} times as fast as float16 on this machine"
            )
        if smallest is not None and self.speed(smallest) < goal.speed:
            assert goal.recovery is not None
            self._exchange(fast)
            recovery = math.exp(-self._loss())
            raise BadConfig(
                f"--budget {goal.recovery:.2%} and --target-speed {goal.speed:g}: not both.  With "
                f"the budget kept, about {self.speed(smallest):.2f} times float16's speed is "
                f"reached; with the speed, a recovery of {recovery:.2%}"
            )
        return self._taken(fast)

    def _taken(self, point: Point[WeightFormat]) -> Point[WeightFormat]:
        self._exchange(point)
        return point

    def _loss(self) -> float:
        return self._trial.divergence(self._readings, -1)

    def _within_bits(self, bits: float) -> Point[WeightFormat]:
        fixed_bytes, num_weights = self._trial.prescribed_bytes, self._trial.weights.num_weights
        chosen = self._knapsack.best_within(int(bits * num_weights / 8) - fixed_bytes)
        if chosen is None:
            least = 8 * (self._points[-1].num_bytes + fixed_bytes) / num_weights
            raise BadConfig(f"--bits {bits}: this model takes {least:.2f} or more")
        return chosen

    def _within_budget(self, recovery: float) -> Point[WeightFormat]:
        budget, scale = -math.log(recovery), 1.0
        best: Point[WeightFormat] | None = None
        for _ in range(ROUNDS):
            chosen = self._knapsack.smallest_within(budget / scale)
            if chosen is None:
                break
            self._exchange(chosen)
            loss = self._loss()
            if loss <= budget and (best is None or chosen.num_bytes < best.num_bytes):
                best = chosen
            if CLOSE * budget <= loss <= budget:
                break
            scale = loss / chosen.loss if chosen.loss > 0 else 1.0
        if best is None:  # predicted too well, all three times
            finest = self._points[0]
            self._exchange(finest)
            best = finest if self._loss() <= budget else None
        if best is None:
            raise BadConfig(
                f"--budget {recovery:.2%}: the best formats do not keep so much; ask for less, or "
                "serve --dtype bfloat16"
            )
        return best
