"""What was charged against what the machines cost, for each day and model.

A machine costs by the hour whether it serves or not, so every hour of the period is paid for.  A
day's cost is divided among models by the time that their requests took, from admission to end; a
day without requests is a row of its own.  Amounts are whole micro-units of the cost's currency.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

import msgspec

from tribody.billing.periods import day, day_end_ms
from tribody.billing.pricing import rounded
from tribody.billing.reports import UsageRow
from tribody.core.errors import BadConfig

HOUR_MS = 3_600_000


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What is paid.  `rates`: how much of `currency` one unit of another currency is worth."""

    micro_per_hour: int  # of one node
    nodes: int = 1
    currency: str = "CNY"
    rates: Mapping[str, Fraction] = {}


class MarginRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one day, all its models (`model` empty), or the whole period (`day` too).

    `busy`: the share of the time in which at least one request was there; `at_once`: how many there
    were on average.  Both are of the day or the period, and None for a single model's busy time.
    """

    day: str = ""
    model: str = ""
    requests: int = 0
    tokens: int = 0
    revenue_micro: int
    cost_micro: int
    busy: float | None = None
    at_once: float

    @property
    def margin_micro(self) -> int:
        return self.revenue_micro - self.cost_micro

    @property
    def margin_share(self) -> float | None:
        """Of the revenue; None where there is none."""
        return self.margin_micro / self.revenue_micro if self.revenue_micro else None

    @property
    def cost_per_million_micro(self) -> int | None:
        """What a million tokens cost, prompt and completion alike."""
        return round(self.cost_micro * 1_000_000 / self.tokens) if self.tokens else None


class ServingTime:
    """How long requests took, by day and model, and how long at least one was there.

    `add` is called in the order of `started_ms`.
    """

    def __init__(self, first_ms: int, last_ms: int) -> None:
        self._first_ms, self._last_ms = first_ms, last_ms
        self._until_ms = first_ms  # the union of all so far ends here
        self.request_ms: dict[tuple[str, str], int] = {}
        self.busy_ms: dict[str, int] = {}

    def add(self, model: str, started_ms: int, ended_ms: int) -> None:
        """What lies outside the period is not counted; nor is a clock that ran backwards."""
        start, end = max(started_ms, self._first_ms), min(ended_ms, self._last_ms)
        for name, part_ms in _by_day(start, end):
            key = (name, model)
            self.request_ms[key] = self.request_ms.get(key, 0) + part_ms
        for name, part_ms in _by_day(max(start, self._until_ms), end):
            self.busy_ms[name] = self.busy_ms.get(name, 0) + part_ms
        self._until_ms = max(self._until_ms, end)


def _by_day(start_ms: int, end_ms: int) -> Iterator[tuple[str, int]]:
    """An interval's parts by day."""
    while start_ms < end_ms:
        part_end = min(day_end_ms(start_ms), end_ms)
        yield day(start_ms), part_end - start_ms
        start_ms = part_end


def margins(
    usage: Iterable[UsageRow], time: ServingTime, cost: Cost, first_ms: int, last_ms: int
) -> list[MarginRow]:
    """Rows of each day: its models, then the day.  `usage` is by day and model.

    Raises: BadConfig when something was charged in a currency that has no rate.
    """
    by_day: dict[str, dict[str, list[UsageRow]]] = {}
    for row in usage:
        by_day.setdefault(row.day, {}).setdefault(row.model, []).append(row)
    found: list[MarginRow] = []
    for name, wall_ms in _by_day(first_ms, last_ms):
        models = by_day.get(name, {})
        day_cost = rounded(cost.micro_per_hour * cost.nodes * wall_ms, HOUR_MS)
        names = sorted({*models, *(model for of, model in time.request_ms if of == name)})
        weights = [time.request_ms.get((name, model), 0) for model in names]
        if not any(weights):
            weights = [sum(row.requests for row in models.get(model, [])) for model in names]
        shares = divided(day_cost, weights)
        of_day = [
            _row(
                models.get(model, []), share, cost, time.request_ms.get((name, model), 0) / wall_ms
            )
            for model, share in zip(names, shares, strict=True)
        ]
        found += [
            msgspec.structs.replace(row, day=name, model=model)
            for model, row in zip(names, of_day, strict=True)
        ]
        busy = time.busy_ms.get(name, 0) / wall_ms
        whole = added(of_day, busy) if of_day else _row([], day_cost, cost, 0.0)
        found.append(msgspec.structs.replace(whole, day=name, busy=busy))
    return found


def _row(usage: Sequence[UsageRow], cost_micro: int, cost: Cost, at_once: float) -> MarginRow:
    return MarginRow(
        requests=sum(row.requests for row in usage),
        tokens=sum(row.prompt_tokens + row.completion_tokens for row in usage),
        revenue_micro=sum(_converted(row, cost) for row in usage),
        cost_micro=cost_micro,
        at_once=at_once,
    )


def added(rows: Sequence[MarginRow], busy: float | None) -> MarginRow:
    """Of models of the same time."""
    return MarginRow(
        requests=sum(row.requests for row in rows),
        tokens=sum(row.tokens for row in rows),
        revenue_micro=sum(row.revenue_micro for row in rows),
        cost_micro=sum(row.cost_micro for row in rows),
        busy=busy,
        at_once=sum(row.at_once for row in rows),
    )


def by_model(rows: Sequence[MarginRow], time: ServingTime, wall_ms: int) -> list[MarginRow]:
    """The whole period: each model, what idle days cost (model empty), then all of it."""
    models = sorted({row.model for row in rows if row.model})
    found = []
    for model in models:
        of_model = [row for row in rows if row.model == model]
        took = sum(ms for (_day, name), ms in time.request_ms.items() if name == model)
        whole = added(of_model, None)
        found.append(msgspec.structs.replace(whole, model=model, at_once=took / wall_ms))
    days = [row for row in rows if not row.model]
    all_ms, busy_ms = sum(time.request_ms.values()), sum(time.busy_ms.values())
    total = added(days, busy_ms / wall_ms)
    return [*found, msgspec.structs.replace(total, at_once=all_ms / wall_ms)]


def divided(amount: int, weights: Sequence[int]) -> list[int]:
    """In proportion; the parts add up to the amount.  With no weight at all: to the first."""
    total = sum(weights)
    if not total:
        return [amount if index == 0 else 0 for index in range(len(weights))]
    parts, before, weighed = [], 0, 0
    for weight in weights:
        weighed += weight
        upto = rounded(amount * weighed, total)
        parts.append(upto - before)
        before = upto
    return parts


def _converted(row: UsageRow, cost: Cost) -> int:
    if row.currency in ("", cost.currency):
        return row.charged_micro
    rate = cost.rates.get(row.currency)
    if rate is None:
        raise BadConfig(
            f"something was charged in {row.currency} and the cost is in {cost.currency}; say what "
            f"one {row.currency} is worth: --rate {row.currency}=NUMBER"
        )
    return round(row.charged_micro * rate)
