"""Two settings timed in turns: how much faster one is, and whether that is more than noise.

A machine drifts (clocks, neighbours, caches), so a time says little and two times of one moment
say more: each round times both, one after the other, in an order that turns round, and only the
ratio counts.  The median of the ratios stands, with the interval that ranks give: it takes no shape
of the noise for granted, and an interrupted run moves it by one rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tribody.engine.tuned import Gain

CONFIDENCE = 0.99  # of an interval: a search asks a dozen questions


@dataclass(frozen=True, slots=True)
class Ratio:
    """A logarithm of time ratios, its median and interval; positive: the second is faster."""

    middle: float
    low: float
    high: float

    @property
    def gain(self) -> Gain:
        """As shares of the first one's time."""
        return Gain(*(-math.expm1(-value) for value in (self.middle, self.low, self.high)))


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """From times of both in the same rounds; fewer than 8 rounds bound nothing.

    Source of the interval: the sign test turned round (Conover, Practical Nonparametric Statistics,
    section 3.2): between the k-th smallest and the k-th largest lies the median, unless fewer than
    k of n fair coins fell one way.
    """
    ratios = sorted(math.log(a / b) for a, b in zip(first, second, strict=True))
    count = len(ratios)
    rank, tail = 0, 0.0
    while rank < count:
        tail += 2.0 * math.comb(count, rank) / 2.0**count
        if tail > 1 - CONFIDENCE:
            break
        rank += 1
    if rank == 0:
        return Ratio(median(ratios), -math.inf, math.inf)
    return Ratio(median(ratios), ratios[rank - 1], ratios[-rank])
