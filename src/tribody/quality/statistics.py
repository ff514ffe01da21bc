"""Intervals and tests for shares and paired differences, in plain NumPy.

Nothing here knows models or tasks.  All intervals are two-sided at 95 %.  "Paired" means that both
sides answered the same items or read the same chunks, so what the items have in common cancels.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

CONFIDENCE = 0.95
Z = 1.959963984540054  # the 97.5 % point of the standard normal distribution

RESAMPLES = 4000
# Of a bootstrap.  Each 2.5 % tail then holds 100 draws, so a limit's own error is about a tenth of
# the interval's half width; Efron and Tibshirani (1993, section 14.3) ask for at least 1,000.

_RESAMPLES_AT_ONCE = 100  # bounds the memory: 100 x 10,000 chunks are 8 MB of weights


class Interval(msgspec.Struct, frozen=True):
    """A closed 95 % confidence interval."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """The score interval of a share; unlike p +- z s it is sound at 0 and 100 %.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.  No trials say nothing: [0, 1].
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share = successes / trials
    centre = share + Z * Z / (2 * trials)
    spread = Z * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials))
    scale = 1 + Z * Z / trials
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return Interval(low, high)


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """Interval of (second's share - first's share) over the same items, from the 2 x 2 counts.

    Joins the two Wilson intervals through the correlation of the pairs, so it has a width even
    when no item flipped.  Source: Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10.
    """
    trials = both + only_first + only_second + neither
    if trials == 0:
        return Interval(-1.0, 1.0)
    first, second = both + only_first, both + only_second
    share_first, share_second = first / trials, second / trials
    limits_first, limits_second = wilson(first, trials), wilson(second, trials)
    phi = _correlation(both, only_first, only_second, neither)
    below, above = share_second - limits_second.low, limits_second.high - share_second
    first_below, first_above = share_first - limits_first.low, limits_first.high - share_first
    difference = share_second - share_first
    # The radicands are sums of squares less a correlation, at least (x - y)^2 >= 0; rounding can
    # leave -1e-20 where both are equal.
    low = math.sqrt(max(0.0, below**2 - 2 * phi * below * first_above + first_above**2))
    high = math.sqrt(max(0.0, above**2 - 2 * phi * above * first_below + first_below**2))
    return Interval(difference - low, difference + high)


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Newcombe's phi: with the continuity correction when positive, 0 with an empty margin."""
    trials = both + only_first + only_second + neither
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    if margins == 0:
        return 0.0
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(product - trials / 2, 0.0)
    return product / math.sqrt(margins)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value of "flips go either way equally often".

    Source: McNemar, Psychometrika 12 (1947) 153-157, with the binomial tail in place of chi-square.
    """
    flips = only_first + only_second
    tail = sum(math.comb(flips, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**flips))


def bootstrap_means(sums: F64, counts: F64, seed: int) -> F64 | None:
    """Means (RESAMPLES, M) of M quantities over chunks drawn again with replacement.

    sums (C, M) of each chunk, counts (C,) of the values in each; a chunk is drawn whole, since
    neighbouring positions depend on each other.  None with fewer than two chunks: nothing varies.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 8.6 and 13.3.
    """
    num_chunks = len(counts)
    if num_chunks < 2:
        return None
    random = np.random.default_rng(seed)
    even = np.full(num_chunks, 1 / num_chunks)
    means = np.empty((RESAMPLES, sums.shape[1]), np.float64)
    for start in range(0, RESAMPLES, _RESAMPLES_AT_ONCE):
        rows = means[start : start + _RESAMPLES_AT_ONCE]
        drawn = random.multinomial(num_chunks, even, size=len(rows)).astype(np.float64)
        rows[:] = (drawn @ sums) / (drawn @ counts)[:, None]
    return means


def percentile_interval(draws: F64) -> Interval:
    """The middle 95 % of bootstrap draws (R,)."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))
