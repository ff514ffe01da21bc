"""Usage by tenant, day, model or key, and as one HTML page.  Adds up; reads nothing.

Days are those of the rows (Asia/Shanghai unless the caller grouped otherwise).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

import msgspec

from tribody.billing.money import show_column
from tribody.billing.reports_svg import Series, columns_chart, line_chart

Group = Literal["day", "month", "tenant", "user", "key", "model", "route", "outcome"]
MAX_TENANT_CHARTS = 24  # a page with more is slow to look at; the table has every tenant
COLOURS = ("#1b6ca8", "#e08a1e", "#4a9c5d")


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One group of requests; what it is not grouped by is empty.

    `currency` and `charged_micro` are of the charges, empty and 0 where nothing was charged.
    """

    day: str = ""
    month: str = ""
    tenant: str = ""
    user: str = ""
    key: str = ""
    model: str = ""
    route: str = ""
    outcome: str = ""
    currency: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    charged_micro: int = 0

    @property
    def miss_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that came from the cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


COUNTED = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


def grouped(rows: Iterable[UsageRow], by: Sequence[Group]) -> list[UsageRow]:
    """Sums by these groups and the currency, in their order."""
    sums: dict[tuple[str, ...], dict[str, int]] = {}
    for row in rows:
        name = (*(getattr(row, group) for group in by), row.currency)
        total = sums.setdefault(name, dict.fromkeys((*COUNTED, "charged_micro"), 0))
        for field in total:
            total[field] += getattr(row, field)
    return [
        UsageRow(**dict(zip((*by, "currency"), name, strict=True)), **total)  # type: ignore[arg-type]
        for name, total in sorted(sums.items())
    ]


def money_by_currency(rows: Iterable[UsageRow]) -> dict[str, int]:
    """What was charged, in each currency that anything was charged in."""
    return {row.currency: row.charged_micro for row in grouped(rows, ()) if row.currency}


def page(rows: Sequence[UsageRow], title: str, period: str) -> str:
    """One HTML page with nothing to fetch: totals, charts of all and of each tenant, the table.

    `rows` are by day and tenant (and whatever else).
    """
    by_tenant = sorted(
        grouped(rows, ("tenant",)), key=lambda row: -(row.prompt_tokens + row.completion_tokens)
    )
    tenants = list(dict.fromkeys(row.tenant for row in by_tenant))
    shown = tenants[:MAX_TENANT_CHARTS]
    parts = [_charts("All tenants" if len(tenants) > 1 else "Usage", rows)]
    if len(tenants) > 1:
        parts += [_charts(name, [row for row in rows if row.tenant == name]) for name in shown]
    if len(tenants) > len(shown):
        parts.append(
            f"<p>Charts are of the {len(shown)} tenants that used most; the table has all "
            f"{len(tenants)}.</p>"
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(period)}</p>"
        f"<h2>Tenants</h2>{_table(by_tenant, ('tenant',))}"
        f"{''.join(parts)}"
        f"<h2>Days</h2>{_table(grouped(rows, ('day', 'tenant')), ('day', 'tenant'))}</html>"
    )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;"
    "color:#222}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:2px 10px;text-align:right;border-bottom:1px solid #ddd}"
    "td.text,th.text{text-align:left}svg{width:100%;max-width:46em;display:block;margin:1em 0}"
    "@media print{svg{break-inside:avoid}}"
)


def _charts(name: str, rows: Sequence[UsageRow]) -> str:
    days = sorted({row.day for row in rows})
    by_day = {day: [row for row in rows if row.day == day] for day in days}
    totals = {day: _sum(of_day) for day, of_day in by_day.items()}
    tokens = [
        Series("prompt, from the cache", COLOURS[0], [totals[day].cached_tokens for day in days]),
        Series("prompt, computed", COLOURS[1], [totals[day].miss_tokens for day in days]),
        Series("completion", COLOURS[2], [totals[day].completion_tokens for day in days]),
    ]
    drawn = [columns_chart(f"Tokens a day: {name}", days, tokens)]
    for currency in money_by_currency(rows):
        values = [money_by_currency(by_day[day]).get(currency, 0) / 1e6 for day in days]
        drawn.append(
            columns_chart(
                f"Charged a day, {currency}: {name}", days, [Series(currency, COLOURS[0], values)]
            )
        )
    rates = [100 * totals[day].hit_rate for day in days]
    drawn.append(line_chart(f"Prompt tokens from the cache, %: {name}", days, rates, 100.0))
    return f"<h2>{escape(name)}</h2>{''.join(drawn)}"


def _sum(rows: Sequence[UsageRow]) -> UsageRow:
    """Tokens of all currencies together."""
    counts = {field: sum(getattr(row, field) for row in rows) for field in COUNTED}
    return UsageRow(**counts)


def _table(rows: Sequence[UsageRow], by: Sequence[Group]) -> str:
    money = show_column([row.charged_micro for row in rows])
    heads = "".join(f'<th class="text">{name}</th>' for name in by) + "".join(
        f"<th>{name}</th>"
        for name in ("requests", "prompt", "cached", "completion", "hit rate", "charged", "")
    )
    lines = []
    for row, amount in zip(rows, money, strict=True):
        names = "".join(f'<td class="text">{escape(getattr(row, name))}</td>' for name in by)
        cells = (
            f"{row.requests:,}",
            f"{row.prompt_tokens:,}",
            f"{row.cached_tokens:,}",
            f"{row.completion_tokens:,}",
            f"{row.hit_rate:.1%}",
            amount if row.currency else "",
            escape(row.currency),
        )
        lines.append(f"<tr>{names}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"
