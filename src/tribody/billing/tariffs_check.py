"""What the rules of a price list say together: gaps, overlaps, and what is doubtful.

Exact, by cases.  Everything that requests can differ in falls into finitely many cases between the
boundaries that the rules name: currencies, models (each name and each beginning), tenants, batch or
not, lengths, and instants.  Between two instants that rules name, all depends on the type of the
day and the minute only; the days are walked, in the list's time zone, through every year of its
calendar.  Beyond it fifteen days stand for all: each weekday comes twice, so a change of the clocks
hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

from tribody.billing.calendar import DayKind
from tribody.billing.tariffs_file import EPOCH, PriceList
from tribody.billing.tariffs_rules import (
    DAY_MINUTES,
    KindUnknown,
    Minutes,
    Ranked,
    Rule,
    ranked,
    winners,
)

Severity = Literal["error", "warning"]

MAX_CASES = 20_000  # of models, tenants and spans; DeepSeek's whole history has under a hundred
MAX_PROBLEMS = 100
MAX_SHOWN = 10  # names in one problem
MINUTE_MS = 60_000
SAMPLE_MINUTES = 15 * DAY_MINUTES


@dataclass(frozen=True)
class Request:
    """One request that a problem shows at."""

    currency: str
    model: str
    tenant_id: str
    at_ms: int
    prompt_tokens: int
    is_batch: bool


@dataclass(frozen=True)
class Problem:
    """One thing found.  An error makes some request unpriced; `example` is one of them."""

    severity: Severity
    text: str
    example: Request | None = None


@dataclass(frozen=True)
class _Piece:
    """Minutes [start, end) of a type of day that occur in a span, and the first instant of them."""

    weekday: int
    kind: DayKind | None
    is_later: bool  # than all the calendar's years
    start: int
    end: int
    at_minute: int = field(compare=False)


@dataclass(frozen=True)
class _Case:
    """Requests that the same rules apply to, [since, until) in minutes of the epoch."""

    currency: str
    model: str  # a name, or a beginning and `*` for all that no longer one is for
    tenant_id: str  # "" = one that no rule names
    prompt_tokens: int
    is_batch: bool
    since: int | None
    until: int | None
    rules: Ranked

    def at(self, minute: int) -> Request:
        return Request(
            currency=self.currency,
            model=self.model,
            tenant_id=self.tenant_id,
            at_ms=minute * MINUTE_MS,
            prompt_tokens=self.prompt_tokens,
            is_batch=self.is_batch,
        )


def problems(prices: PriceList) -> list[Problem]:
    """Errors first; of very many the first hundred."""
    check = _Check(prices)
    check.run()
    found = sorted(check.found.values(), key=lambda problem: problem.severity)
    if len(found) > MAX_PROBLEMS:
        rest = len(found) - MAX_PROBLEMS
        found[MAX_PROBLEMS:] = [Problem(found[MAX_PROBLEMS].severity, f"and {rest} problems more")]
    return found


class _Check:
    """Walks the cases of one list.  `found`: by what and where; `used`: ids of rules that apply;
    `unknown`: of days that the calendar lacks, by whether they are later, the first request that
    needs them and the rules."""

    def __init__(self, prices: PriceList) -> None:
        self.prices = prices
        self.found: dict[tuple[object, ...], Problem] = {}
        self.used: set[str] = set()
        self.unknown: dict[bool, tuple[Request, dict[str, None]]] = {}
        self.pieces: dict[tuple[int | None, int | None], list[_Piece]] = {}
        self.walked: set[tuple[object, ...]] = set()

    def run(self) -> None:
        for num_cases, case in enumerate(_cases(self.prices.rules)):
            if num_cases == MAX_CASES:
                text = f"more than {MAX_CASES} cases of models, tenants and dates; split the list"
                self.found["size",] = Problem("error", text)
                return
            ids = tuple((rank, rule.rule_id) for rank, rule in case.rules)
            same = (ids or (case.currency, case.model, case.tenant_id), case.since, case.until)
            if same not in self.walked:
                self.walked.add(same)
                self._walk(case)
        doubts = [*self._unknown_days(), *_doubts(self.prices, self.used)]
        self.found.update((("doubt", number), problem) for number, problem in enumerate(doubts))

    def _walk(self, case: _Case) -> None:
        """Every minute of every type of day of a case, one for all that are alike."""
        span = (case.since, case.until)
        if span not in self.pieces:
            self.pieces[span] = _pieces(self.prices, *span)
        seen = set()
        for piece in self.pieces[span]:
            hours = [rule.band.possible_hours(piece.weekday, piece.kind) for _, rule in case.rules]
            alike = (piece.start, piece.end, piece.is_later, *hours)
            if alike not in seen:
                seen.add(alike)
                for minute in _cuts(piece, (m for options in hours for m in options)):
                    self._look(case, piece, minute)

    def _look(self, case: _Case, piece: _Piece, minute: int) -> None:
        example = case.at(piece.at_minute + minute - piece.start)
        try:
            rules = winners(case.rules, piece.weekday, piece.kind, minute)
        except KindUnknown:
            self.used.update(rule.rule_id for _, rule in case.rules)
            _example, depending = self.unknown.setdefault(piece.is_later, (example, {}))
            for _, rule in case.rules:
                if len(rule.band.possible_hours(piece.weekday, None)) > 1:
                    depending.setdefault(rule.rule_id)
            return
        ids = tuple(rule.rule_id for rule in rules)
        self.used.update(ids)
        if len(ids) != 1:
            what = f"rules {', '.join(ids)} contradict each other for" if ids else "no rule for"
            problem = Problem("error", f"{what} {_shown(self.prices, example)}", example)
            key = (ids, case.currency, case.model, case.tenant_id)
            self.found.setdefault(key if ids else (*key, case.since), problem)

    def _unknown_days(self) -> Iterator[Problem]:
        """Years that follow the calendar's can still be added; earlier ones are missing."""
        for is_later, (example, ids) in self.unknown.items():
            more = f" and {len(ids) - MAX_SHOWN} more" if len(ids) > MAX_SHOWN else ""
            text = (
                f"the calendar does not know {_when(self.prices, example)}: prices that depend on "
                "holidays are refused then, not guessed, those of rules "
                f"{', '.join(list(ids)[:MAX_SHOWN])}{more}"
            )
            yield Problem("warning" if is_later else "error", text, example)


def _cases(rules: Sequence[Rule]) -> Iterator[_Case]:
    """All of one model, tenant and currency cover the time from its first price to its last."""
    models = sorted({pattern for rule in rules for pattern in rule.models})
    for currency in sorted({rule.currency for rule in rules}):
        for model in models:
            named = {t for rule in rules if rule.rank(model, "") is None for t in rule.tenants}
            for tenant_id in ("", *sorted(named)):
                of_model = ranked(rules, currency, model, tenant_id)
                if tenant_id and not any(rank[0] for rank, _ in of_model):
                    continue  # rules of this tenant are for other models
                for is_batch in (False, True):
                    for tokens in sorted({0, *_lengths(of_model)}):
                        for since, until in _spans(of_model):
                            found = [
                                (rank, rule)
                                for rank, rule in of_model
                                if rule.takes(tokens, is_batch) and _covers(rule, since, until)
                            ]
                            yield _Case(
                                currency, model, tenant_id, tokens, is_batch, since, until, found
                            )


def _lengths(rules: Ranked) -> Iterator[int]:
    """The first length behind each boundary."""
    for _, rule in rules:
        yield rule.above + 1
        if rule.up_to is not None:
            yield rule.up_to + 1


def _spans(rules: Ranked) -> list[tuple[int | None, int | None]]:
    """From the first instant that has a price to the last, cut wherever a rule begins or ends."""
    if not rules:
        return []
    starts = {rule.from_minute for _, rule in rules}
    ends = {rule.until_minute for _, rule in rules}
    inner = sorted(minute for minute in starts | ends if minute is not None)
    cuts: list[int | None] = [*inner]
    if None in starts:
        cuts.insert(0, None)
    if None in ends:
        cuts.append(None)
    return list(pairwise(cuts))


def _covers(rule: Rule, since: int | None, until: int | None) -> bool:
    """A span between two cuts lies wholly within a rule's time or wholly outside."""
    begins = rule.from_minute is None or (since is not None and rule.from_minute <= since)
    ends = rule.until_minute is None or (until is not None and until <= rule.until_minute)
    return begins and ends


def _cuts(piece: _Piece, hours: Iterable[Minutes]) -> list[int]:
    """The first minutes of a piece's parts in which no band begins or ends."""
    edges = {edge for minutes in hours for span in minutes for edge in span}
    return sorted({piece.start, *(e for e in edges if piece.start < e < piece.end)})


def _pieces(prices: PriceList, since: int | None, until: int | None) -> list[_Piece]:
    """The types of day and the minutes of them that occur in [since, until)."""
    first, last = _calendar_span(prices)
    if until is None:
        until = max(last, last if since is None else since) + SAMPLE_MINUTES
    if since is None:  # nobody asks for prices of days before the calendar
        since = first if first < until else until - SAMPLE_MINUTES
    before = (since, min(until, first, since + SAMPLE_MINUTES))
    within = (max(since, first), min(until, last))
    after = (max(since, last), min(until, max(since, last) + SAMPLE_MINUTES))
    pieces: dict[_Piece, None] = {}
    for start, end in (before, within, after):
        for piece in _walk_days(prices, start, end):
            pieces.setdefault(piece)
    return list(pieces)


def _calendar_span(prices: PriceList) -> tuple[int, int]:
    """Minutes of the epoch around all years of the calendar; of none, two equal ones."""
    years = prices.calendar.years if prices.calendar else {2000}
    first, last = min(years), max(years) + bool(prices.calendar)
    return _midnight(prices.zone, first), _midnight(prices.zone, last)


def _midnight(zone: ZoneInfo, year: int) -> int:
    return (datetime(year, 1, 1, tzinfo=zone) - EPOCH) // timedelta(minutes=1)


def _walk_days(prices: PriceList, since: int, until: int) -> Iterator[_Piece]:
    """Day after day of the list's zone; a day on which the clocks change comes in two pieces."""
    calendar = prices.calendar
    last_year = max(calendar.years) if calendar else 0
    at = since
    while at < until:
        local = _local(prices.zone, at)
        start = local.hour * 60 + local.minute
        end = _same_offset(prices.zone, at, min(until, at + DAY_MINUTES - start))
        kind = calendar.kind(local.date()) if calendar else "plain"
        is_later = kind is None and local.year > last_year
        yield _Piece(local.weekday(), kind, is_later, start, start + end - at, at)
        at = end


def _same_offset(zone: ZoneInfo, at: int, until: int) -> int:
    """The first minute of (at, until) at which clocks were changed, or `until`."""
    offset = _local(zone, at).utcoffset()
    if _local(zone, until - 1).utcoffset() == offset:
        return until
    same, other = at, until - 1
    while other - same > 1:
        middle = (same + other) // 2
        if _local(zone, middle).utcoffset() == offset:
            same = middle
        else:
            other = middle
    return other


def _local(zone: ZoneInfo, minute: int) -> datetime:
    return (EPOCH + timedelta(minutes=minute)).astimezone(zone)


def _when(prices: PriceList, request: Request) -> str:
    return f"{_local(prices.zone, request.at_ms // MINUTE_MS):%a %Y-%m-%d %H:%M}"


def _shown(prices: PriceList, request: Request) -> str:
    parts = [f"model {request.model} in {request.currency} at {_when(prices, request)}"]
    if request.tenant_id:
        parts.append(f"tenant {request.tenant_id}")
    if request.prompt_tokens:
        parts.append(f"prompt of {request.prompt_tokens} tokens")
    if request.is_batch:
        parts.append("in a batch")
    return ", ".join(parts)


def _doubts(prices: PriceList, used: set[str]) -> Iterator[Problem]:
    """What is allowed and hardly meant."""
    for rule in prices.rules:
        if rule.prices.hit > rule.prices.miss:
            yield Problem("warning", f"rule {rule.rule_id}: a cache hit costs more than a miss")
        if rule.prices.cache_storage:
            yield Problem(
                "warning",
                f"rule {rule.rule_id}: what is kept in the cache is not measured yet, so "
                "cache_storage is shown and not charged",
            )
        if rule.rule_id not in used:
            yield Problem(
                "warning",
                f"rule {rule.rule_id} never applies: others go before it, or its days never come",
            )
    bands = {rule.band.name for rule in prices.rules}
    bands |= {other for band in prices.bands.values() for other in band.all_but}
    for name in sorted(set(prices.bands) - bands):
        yield Problem("warning", f"band {name} is used by no rule")
    for name in sorted(
        set(prices.free) - {rule.free.allowance_id for rule in prices.rules if rule.free}
    ):
        yield Problem("warning", f"free tier {name} is used by no rule")
    yield from _endings(prices)


def _endings(prices: PriceList) -> Iterator[Problem]:
    """Models whose last price has an end, each once."""
    ended: dict[int, list[str]] = {}
    for currency in sorted({rule.currency for rule in prices.rules}):
        for model in sorted({pattern for rule in prices.rules for pattern in rule.models}):
            spans = _spans(ranked(prices.rules, currency, model, ""))
            end = spans[-1][1] if spans else None
            if end is not None:
                ended.setdefault(end, []).append(f"{model} ({currency})")
    for end, models in sorted(ended.items()):
        when = _local(prices.zone, end)
        yield Problem("warning", f"no price from {when:%Y-%m-%d %H:%M} on: {', '.join(models)}")
