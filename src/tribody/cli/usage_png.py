"""The charts of `tribody usage` as one picture, drawn by matplotlib where that is installed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tribody.billing.exports import replaced
from tribody.billing.reports import COLOURS, UsageRow, grouped, money_by_currency
from tribody.core.errors import BadConfig

MAX_DAY_LABELS = 8


def save_png(path: Path, rows: Sequence[UsageRow], title: str) -> None:
    """Tokens, money and hit rate by day.  Raises: BadConfig without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadConfig(
            f"{path}: a picture needs matplotlib, which is not installed here; install it, or "
            "write a page: --report usage.html"
        ) from error
    days = sorted({row.day for row in rows})
    counted = {day: grouped([_plain(row) for row in rows if row.day == day], ())[0] for day in days}
    currencies = list(money_by_currency(rows))
    figure = Figure(figsize=(10, 3 * (2 + len(currencies))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(2 + len(currencies), 1, squeeze=False)[:, 0])
    figure.suptitle(title)
    tokens = next(axes)
    below = [0] * len(days)
    for name, colour, field in (
        ("prompt, cached", COLOURS[0], "cached_tokens"),
        ("prompt, computed", COLOURS[1], "miss_tokens"),
        ("completion", COLOURS[2], "completion_tokens"),
    ):
        values = [getattr(counted[day], field) for day in days]
        tokens.bar(days, values, bottom=below, color=colour, label=name)
        below = [low + value for low, value in zip(below, values, strict=True)]
    tokens.set_ylabel("tokens")
    tokens.legend()
    for currency in currencies:
        money = next(axes)
        of_currency = [row for row in rows if row.currency == currency]
        by_day = {row.day: row.charged_micro for row in grouped(of_currency, ("day",))}
        money.bar(days, [by_day.get(day, 0) / 1e6 for day in days], color=COLOURS[0])
        money.set_ylabel(currency)
    rate = next(axes)
    rate.plot(days, [100 * counted[day].hit_rate for day in days], marker="o", color=COLOURS[0])
    rate.set_ylim(0, 100)
    rate.set_ylabel("cached, %")
    for one in figure.axes:
        one.set_xticks(days[:: max(1, math.ceil(len(days) / MAX_DAY_LABELS))])
    with replaced(path) as part:
        figure.savefig(part, format="png", dpi=120)


def _plain(row: UsageRow) -> UsageRow:
    """Tokens of all currencies are added up."""
    return UsageRow(
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
    )
