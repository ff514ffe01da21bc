"""Rules of a price list: what a rule applies to, and which of several goes first.

A rule matches by currency, model, tenant, instant, length of the prompt and whether the request is
of a batch.  Of the rules that match, those for named tenants go before those for all, promotions
before normal ones, exact model names before patterns and longer patterns before shorter ones, in
this order.  Two that match and stand equal contradict each other.

Clock times are those of one time zone for the whole list; whole minutes, half-open ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tribody.billing.calendar import DAY_KINDS, SATURDAY, DayKind
from tribody.billing.pricing import Allowance

Minutes = tuple[tuple[int, int], ...]  # of a day, ranges [from, until) in order, apart
DayType = tuple[int, DayKind]  # a weekday, Monday is 0, and what the calendar says of the day
Rank = tuple[bool, bool, int]

DAY_MINUTES = 1440
ALL_DAY: Minutes = ((0, DAY_MINUTES),)
EXACT = 10**6  # ranks before every pattern, however long

DAY_TYPES: tuple[DayType, ...] = tuple(
    (weekday, kind)
    for weekday in range(7)
    for kind in DAY_KINDS
    if kind != "make-up" or weekday >= SATURDAY
)


class KindUnknown(Exception):
    """It depends on a day's kind, and the calendar does not know the day."""


@dataclass(frozen=True)
class Band:
    """The minutes of each type of day that a band takes in."""

    name: str
    hours: Mapping[DayType, Minutes]
    all_but: tuple[str, ...] = ()  # the bands that it is the complement of

    def possible_hours(self, weekday: int, kind: DayKind | None) -> frozenset[Minutes]:
        """Of a day whose kind is known one; otherwise what it may be."""
        return frozenset(
            self.hours[day_type]
            for day_type in DAY_TYPES
            if day_type[0] == weekday and kind in (None, day_type[1])
        )

    def holds(self, weekday: int, kind: DayKind | None, minute: int) -> bool:
        """Raises: KindUnknown if it depends on a kind that is not known."""
        if kind is not None:
            return _inside(self.hours[weekday, kind], minute)
        answers = {_inside(hours, minute) for hours in self.possible_hours(weekday, None)}
        if len(answers) > 1:
            raise KindUnknown
        return answers.pop()


ALWAYS = Band("always", dict.fromkeys(DAY_TYPES, ALL_DAY))


def complement(name: str, bands: Iterable[Band]) -> Band:
    """All minutes that none of the bands takes in."""
    taken = list(bands)
    return Band(
        name,
        {
            day_type: outside([span for band in taken for span in band.hours[day_type]])
            for day_type in DAY_TYPES
        },
        tuple(band.name for band in taken),
    )


def outside(spans: Iterable[tuple[int, int]]) -> Minutes:
    """The minutes of a day that lie in none of the ranges."""
    free = []
    reached = 0
    for start, end in sorted(spans):
        if start > reached:
            free.append((reached, start))
        reached = max(reached, end)
    if reached < DAY_MINUTES:
        free.append((reached, DAY_MINUTES))
    return tuple(free)


def merged(spans: Iterable[tuple[int, int]]) -> Minutes:
    """The same minutes as ranges in order that do not touch."""
    return outside(outside(spans))


@dataclass(frozen=True)
class Prices:
    """Micro-units per million tokens (`cache_storage`: million token-hours)."""

    hit: int
    miss: int
    output: int
    reasoning: int | None = None
    cache_storage: int = 0
    batch_numerator: int = 1
    batch_denominator: int = 1
    result_micro: int = 0
    accept_seconds: int = 0


@dataclass(frozen=True)
class Rule:
    """One rule.  `from_minute`, `until_minute`: minutes of the Unix epoch, None = open."""

    rule_id: str
    title: str
    currency: str
    models: tuple[str, ...]  # exact names, or a beginning and `*`
    tenants: frozenset[str]  # none = all
    from_minute: int | None
    until_minute: int | None
    band: Band
    is_promotion: bool
    above: int  # prompt tokens, exclusive; -1 = from the first
    up_to: int | None  # inclusive
    for_batch: bool | None  # None = both
    prices: Prices
    free: Allowance | None  # its period is each request's

    def rank(self, model: str, tenant_id: str) -> Rank | None:
        """What it is compared by, higher goes first; None if model or tenant is another's."""
        if self.tenants and tenant_id not in self.tenants:
            return None
        matches = [_specificity(pattern, model) for pattern in self.models]
        best = max(matches)
        return None if best < 0 else (bool(self.tenants), self.is_promotion, best)

    def takes(self, prompt_tokens: int, is_batch: bool) -> bool:
        return (
            self.above < prompt_tokens
            and (self.up_to is None or prompt_tokens <= self.up_to)
            and self.for_batch in (None, is_batch)
        )

    def spans(self, minute: int) -> bool:
        return (self.from_minute is None or self.from_minute <= minute) and (
            self.until_minute is None or minute < self.until_minute
        )


Ranked = Sequence[tuple[Rank, Rule]]


def ranked(rules: Iterable[Rule], currency: str, model: str, tenant_id: str) -> Ranked:
    """The rules for a model, tenant and currency, those that go first at the beginning."""
    found = [
        (rank, rule)
        for rule in rules
        if rule.currency == currency and (rank := rule.rank(model, tenant_id)) is not None
    ]
    return sorted(found, key=lambda pair: pair[0], reverse=True)


def winners(rules: Ranked, weekday: int, kind: DayKind | None, minute: int) -> list[Rule]:
    """The rules that price a minute of a day: one, none (a gap) or several (an overlap).

    Raises: KindUnknown if that depends on a kind that is not known.
    """
    for _rank, group in groupby(rules, key=lambda pair: pair[0]):
        found = [rule for _, rule in group if rule.band.holds(weekday, kind, minute)]
        if found:
            return found
    return []


def _inside(minutes: Minutes, minute: int) -> bool:
    return any(start <= minute < end for start, end in minutes)


def _specificity(pattern: str, model: str) -> int:
    """-1 if the pattern does not match."""
    if pattern.endswith("*"):
        return len(pattern) if model.startswith(pattern[:-1]) else -1
    return EXACT if model == pattern else -1
