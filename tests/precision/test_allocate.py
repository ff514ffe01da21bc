"""Allocation against every possible mixture of small problems."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from tribody.precision.allocate import (
    Knapsack,
    Option,
    frontier,
    lower_hull,
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


@pytest.mark.parametrize("seed", range(60))
def test_the_knapsack_finds_the_best_of_all_mixtures(seed: int) -> None:
    parts = problem(seed)
    every, knapsack, rng = mixtures(parts), Knapsack(parts), Random(seed)
    sizes = {(name, o.choice): o.num_bytes for name in parts for o in parts[name]}
    for _ in range(5):
        limit, loss = rng.choice(every)[0] + rng.randint(0, 3), rng.choice(every)[1]
        best = knapsack.best_within(limit)
        assert best is not None
        assert best.num_bytes <= limit
        assert best.loss == pytest.approx(min(found for size, found in every if size <= limit))
        assert best.num_bytes == sum(sizes[choice] for choice in best.choices.items())
        small = knapsack.smallest_within(loss + 1e-12)
        assert small is not None
        assert small.loss <= loss + 1e-12
        assert small.num_bytes == min(size for size, found in every if found <= loss + 1e-12)


def test_units_round_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tribody.precision.allocate.MOST_UNITS", 16)
    for seed in range(20):
        parts = problem(seed)
        knapsack = Knapsack(parts)
        for limit, _ in mixtures(parts)[::7]:
            best = knapsack.best_within(limit)
            assert best is not None
            assert best.num_bytes <= limit


def test_what_cannot_be_reached_is_none() -> None:
    knapsack = Knapsack({"a": [Option("w8", 80, 0.1), Option("w4", 40, 0.1)],
                         "b": [Option("w8", 8, 0.2), Option("w4", 4, 0.5)]})  # fmt: skip
    best = knapsack.best_within(1000)
    assert best is not None
    assert best.choices == {"a": "w4", "b": "w8"}  # of equal losses the smaller
    assert knapsack.best_within(43) is None
    assert knapsack.smallest_within(0.29) is None


def test_a_part_without_a_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no format for b"):
        frontier({"a": [Option("w8", 8, 0.0)], "b": []})
    with pytest.raises(ValueError, match="no format for b"):
        Knapsack({"a": [Option("w8", 8, 0.0)], "b": []})
