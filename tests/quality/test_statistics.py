"""Intervals and tests against values from the papers, and against what they must satisfy."""

from __future__ import annotations

import numpy as np
import pytest

from tribody.quality.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_means,
    mcnemar_p,
    paired_difference,
    percentile_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0000),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson(successes, trials)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_paired_difference_is_newcombes_example() -> None:
    """36, 12, 2, 0 of 50: +0.0569 to +0.3404 (Statistics in Medicine 17 (1998) 2635-2650)."""
    interval = paired_difference(36, 2, 12, 0)
    assert interval.low == pytest.approx(0.0569, abs=5e-5)
    assert interval.high == pytest.approx(0.3404, abs=5e-5)
    mirrored = paired_difference(36, 12, 2, 0)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))


@pytest.mark.parametrize("counts", [(0, 0, 0, 9), (9, 0, 0, 0), (5, 0, 0, 5), (0, 5, 5, 0)])
def test_no_difference_still_has_a_width(counts: tuple[int, int, int, int]) -> None:
    """Nine items without a flip do not prove that there never is one."""
    interval = paired_difference(*counts)
    assert interval.low <= 0 <= interval.high
    assert -1 <= interval.low <= interval.high <= 1
    assert counts == (5, 0, 0, 5) or interval.high - interval.low > 0.1


def test_no_items_say_nothing() -> None:
    assert paired_difference(0, 0, 0, 0) == Interval(-1.0, 1.0)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 2 / 32),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (600, 900, 0.0),
    ],
)
def test_mcnemar(lost: int, gained: int, p: float) -> None:
    assert mcnemar_p(lost, gained) == pytest.approx(p, abs=1e-12)


def test_bootstrap_covers_and_repeats() -> None:
    """Of 200 means of normal chunks about 95 % lie in their interval; equal seeds, equal draws."""
    random = np.random.default_rng(7)
    inside = 0
    for seed in range(200):
        counts = random.integers(5, 15, 40).astype(np.float64)
        sums = random.normal(3 * counts, np.sqrt(counts))[:, None]
        draws = bootstrap_means(sums, counts, seed)
        assert draws is not None
        assert draws.shape == (RESAMPLES, 1)
        interval = percentile_interval(draws[:, 0])
        inside += interval.low <= 3 <= interval.high
    assert 178 <= inside <= 198
    first, again = (bootstrap_means(sums, counts, 1) for _ in range(2))
    assert first is not None
    assert again is not None
    assert np.array_equal(first, again)


def test_one_chunk_has_no_interval() -> None:
    assert bootstrap_means(np.ones((1, 2)), np.ones(1), 1) is None
