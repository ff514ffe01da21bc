"""Allocation against every possible mixture of small problems."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from tribody.precision.allocate import (
    Option,
    best_within,
    frontier,
    lower_hull,
    smallest_within,
)


def problem(seed: int) -> dict[str, list[Option[str]]]:
    """Parts whose smaller formats lose more, roughly; some losses are noise below zero."""
    rng = Random(seed)
    parts = {}
    for name in "abcde"[: rng.randint(1, 5)]:
        size, weight = rng.randint(1, 40), rng.random() ** 3
        parts[name] = [
            Option(f"w{bits}", size * bits, weight * 4.0**-bits * rng.uniform(0.5, 2) - 1e-6)
            for bits in (4, 5, 6, 8)
        ]
    return parts


def mixtures(parts: dict[str, list[Option[str]]]) -> list[tuple[int, float]]:
    found = []
    for chosen in itertools.product(*parts.values()):
        loss = sum(max(option.loss, 0.0) for option in chosen)
        found.append((sum(option.num_bytes for option in chosen), loss))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_point_of_the_frontier_is_the_best_mixture_of_its_bytes(seed: int) -> None:
    parts = problem(seed)
    points = frontier(parts)
    assert all(a.num_bytes > b.num_bytes for a, b in itertools.pairwise(points))
    assert all(a.loss <= b.loss for a, b in itertools.pairwise(points))
    for point in points:
        least = min(loss for size, loss in mixtures(parts) if size <= point.num_bytes)
        assert point.loss <= least + 1e-12
        sizes = {
            (name, option.choice): option.num_bytes for name in parts for option in parts[name]
        }
        assert point.num_bytes == sum(sizes[choice] for choice in point.choices.items())


@pytest.mark.parametrize("seed", range(20))
def test_the_frontier_reaches_from_the_least_loss_to_the_fewest_bytes(seed: int) -> None:
    parts = problem(seed)
    points = frontier(parts)
    assert points[0].loss == pytest.approx(min(loss for _, loss in mixtures(parts)))
    fewest = sum(min(option.num_bytes for option in options) for options in parts.values())
    assert points[-1].num_bytes == fewest


def test_an_option_above_the_line_between_two_others_is_left_out() -> None:
    options = [Option("w8", 8, 0.0), Option("w6", 6, 0.9), Option("w4", 4, 1.0)]
    assert [option.choice for option in lower_hull(options)] == ["w8", "w4"]


def test_an_option_that_is_larger_and_loses_more_is_left_out() -> None:
    options = [Option("w8", 8, 0.5), Option("w6", 6, 0.1), Option("w4", 4, 1.0)]
    assert [option.choice for option in lower_hull(options)] == ["w6", "w4"]


def test_limits_choose_the_last_point_that_fits() -> None:
    points = frontier({"a": [Option("w8", 80, 0.0), Option("w4", 40, 0.1)],
                       "b": [Option("w8", 8, 0.0), Option("w4", 4, 0.5)]})  # fmt: skip
    assert [(point.num_bytes, point.loss) for point in points] == [(88, 0), (48, 0.1), (44, 0.6)]
    within = smallest_within(points, 0.2)
    assert within is not None
    assert within.choices == {"a": "w4", "b": "w8"}
    assert smallest_within(points[1:], 0.05) is None
    best = best_within(points, 47)
    assert best is not None
    assert best.num_bytes == 44
    assert best_within(points, 43) is None


def test_a_part_without_a_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no format for b"):
        frontier({"a": [Option("w8", 8, 0.0)], "b": []})
