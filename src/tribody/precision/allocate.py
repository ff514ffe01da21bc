"""Which format each matrix of a model gets: a knapsack over bytes and loss.

Every candidate format of a matrix costs bytes and adds loss; losses of matrices are taken to add
up, which is why the whole is measured again afterwards.
Source: mixed-precision allocation by Lagrangian relaxation, as in Y. Shoham and A. Gersho,
"Efficient bit allocation for an arbitrary set of quantizers" (1988).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

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


def smallest_within(points: Sequence[Point[Choice]], loss: float) -> Point[Choice] | None:
    """The point with the fewest bytes whose loss is at most `loss`; None when there is none."""
    fitting = [point for point in points if point.loss <= loss]
    return fitting[-1] if fitting else None


def best_within(points: Sequence[Point[Choice]], num_bytes: int) -> Point[Choice] | None:
    """The point with the least loss that takes at most `num_bytes`; None when there is none."""
    return next((point for point in points if point.num_bytes <= num_bytes), None)
