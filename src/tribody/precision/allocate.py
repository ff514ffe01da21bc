"""Which format each matrix of a model gets: a knapsack over bytes and loss.

Every candidate format of a matrix costs bytes and adds loss; losses of matrices are taken to add
up, which is why the whole is measured again afterwards.
Source of the frontier: mixed-precision allocation by Lagrangian relaxation, as in Y. Shoham and
A. Gersho, "Efficient bit allocation for an arbitrary set of quantizers" (1988).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

MOST_UNITS = 1 << 16  # of SmolLM2's bytes one is 1 kB; its table takes 8 MB and is made in 0.1 s

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Option(Generic[Choice]):
    """One way to keep a matrix: its bytes, and the loss that it alone causes."""

    choice: Choice
    num_bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Point(Generic[Choice]):
    """One allocation on the frontier."""

    choices: dict[str, Choice]
    num_bytes: int
    loss: float


def lower_hull(options: Sequence[Option[Choice]]) -> list[Option[Choice]]:
    """The options on the lower convex hull of (bytes, loss), from the largest to the smallest.

    Along it each saved byte costs more loss than the one before.  Losses below zero (noise) count
    as zero; an option that is no smaller than one with less loss is left out.
    """
    hull: list[Option[Choice]] = []
    for option in sorted(options, key=lambda o: (max(o.loss, 0.0), o.num_bytes)):
        if hull and option.num_bytes >= hull[-1].num_bytes:
            continue
        while len(hull) > 1 and _price(hull[-1], option) <= _price(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _price(larger: Option[Choice], smaller: Option[Choice]) -> float:
    """The loss that is paid for each byte saved."""
    saved = larger.num_bytes - smaller.num_bytes
    return (max(smaller.loss, 0.0) - max(larger.loss, 0.0)) / saved


def frontier(matrices: Mapping[str, Sequence[Option[Choice]]]) -> list[Point[Choice]]:
    """Allocations from the least loss to the fewest bytes, each one step from the one before.

    Every step moves one matrix down its hull, the one whose saved bytes cost least; ties go to the
    matrix that was given first.  Every point is the least loss at its bytes among all mixtures of
    hull options (the Lagrangian bound), so what greedy leaves to an exact search lies between two
    neighbouring points.
    Raises: ValueError when a matrix has no option.
    """
    hulls = {name: lower_hull(options) for name, options in matrices.items()}
    empty = [name for name, hull in hulls.items() if not hull]
    if empty:
        raise ValueError(f"no format for {', '.join(empty)}")
    steps = [
        (_price(larger, smaller), order, name, index)
        for order, (name, hull) in enumerate(hulls.items())
        for index, (larger, smaller) in enumerate(itertools.pairwise(hull))
    ]
    at = dict.fromkeys(hulls, 0)
    points = [_point(hulls, at)]
    for _, _, name, index in sorted(steps):
        at[name] = index + 1
        points.append(_point(hulls, at))
    return points


def _point(hulls: Mapping[str, list[Option[Choice]]], at: Mapping[str, int]) -> Point[Choice]:
    chosen = {name: hulls[name][index] for name, index in at.items()}
    return Point(
        {name: option.choice for name, option in chosen.items()},
        sum(option.num_bytes for option in chosen.values()),
        sum(max(option.loss, 0.0) for option in chosen.values()),
    )


class Knapsack(Generic[Choice]):
    """The best allocations between the frontier's points too.

    One matrix may be a fifth of a model, an embedding; next to its step the frontier leaves as much
    unused.  Dynamic programming over bytes, in units: exact where their greatest common divisor
    makes no more than MOST_UNITS of them, else a matrix's bytes are rounded up to whole units.
    Raises: ValueError when a matrix has no option.
    """

    def __init__(self, matrices: Mapping[str, Sequence[Option[Choice]]]) -> None:
        empty = [name for name, options in matrices.items() if not options]
        if empty:
            raise ValueError(f"no format for {', '.join(empty)}")
        # Smaller ones first, so that they are taken where nothing is lost by it.
        self._options = {n: sorted(o, key=lambda each: each.num_bytes) for n, o in matrices.items()}
        self._fewest = sum(options[0].num_bytes for options in self._options.values())
        extras = [each.num_bytes - o[0].num_bytes for o in self._options.values() for each in o]
        most = sum(o[-1].num_bytes - o[0].num_bytes for o in self._options.values())
        self._unit = max(1, math.gcd(*extras))
        self._unit *= max(1, -(-most // (self._unit * MOST_UNITS)))
        self._losses = np.zeros(most // self._unit + len(self._options) + 1)
        self._chosen = {name: self._add(options) for name, options in self._options.items()}

    def _units(self, options: Sequence[Option[Choice]], index: int) -> int:
        return -(-(options[index].num_bytes - options[0].num_bytes) // self._unit)

    def _add(self, options: Sequence[Option[Choice]]) -> NDArray[np.uint8]:
        """Which option to take for every number of units; losses become those with this matrix."""
        found = np.full(self._losses.shape, np.inf)
        chosen = np.zeros(self._losses.shape, np.uint8)
        for index, option in enumerate(options):
            extra = self._units(options, index)
            losses = self._losses[: len(found) - extra] + max(option.loss, 0.0)
            better = losses < found[extra:]
            found[extra:][better] = losses[better]
            chosen[extra:][better] = index
        self._losses = found
        return chosen

    def best_within(self, num_bytes: int) -> Point[Choice] | None:
        """The least loss of at most `num_bytes`; None when there is none."""
        if num_bytes < self._fewest:
            return None
        units = (num_bytes - self._fewest) // self._unit
        return self._point(min(units, len(self._losses) - 1))

    def smallest_within(self, loss: float) -> Point[Choice] | None:
        """The fewest bytes whose loss is at most `loss`; None when there are none."""
        fitting = np.flatnonzero(self._losses <= loss)
        return self._point(int(fitting[0])) if len(fitting) else None

    def _point(self, units: int) -> Point[Choice]:
        taken = {}
        for name in reversed(self._options):
            options, index = self._options[name], int(self._chosen[name][units])
            taken[name] = options[index]
            units -= self._units(options, index)
        return Point(
            {name: taken[name].choice for name in self._options},
            sum(option.num_bytes for option in taken.values()),
            sum(max(option.loss, 0.0) for option in taken.values()),
        )
