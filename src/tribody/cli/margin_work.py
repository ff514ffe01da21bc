"""What `tribody margin` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import msgspec

from tribody.billing.exports import Cell, Columns, save_csv, save_parquet
from tribody.billing.margin import Cost, MarginRow, ServingTime, by_model, margins
from tribody.billing.money import CURRENCIES, MICRO, parse_micro, show_column, show_micro
from tribody.billing.periods import day_bounds_ms
from tribody.billing.pricing import rounded
from tribody.billing.usage import Chosen, serving_times, usage_rows
from tribody.cli.account_flags import Days, Where
from tribody.cli.account_texts import parse_days, show_period
from tribody.cli.accounts import now_ms, open_books
from tribody.cli.tables import print_json, print_table
from tribody.core.errors import BadConfig

FEN = 10_000  # micro-units
COLUMNS: Columns = [
    ("day", "text"),
    ("model", "text"),
    ("requests", "integer"),
    ("tokens", "integer"),
    ("revenue_micro", "integer"),
    ("cost_micro", "integer"),
    ("margin_micro", "integer"),
]


@dataclass(frozen=True)
class MarginOptions:
    """As typed."""

    cost_per_hour: str
    nodes: int
    currency: str
    rates: list[str]
    csv: Path | None
    parquet: Path | None

    def cost(self) -> Cost:
        """Raises: BadConfig."""
        if self.currency not in CURRENCIES:
            raise BadConfig(
                f"--currency {self.currency[:16]!r} is not one of {', '.join(CURRENCIES)}"
            )
        micro = parse_micro("--cost-per-hour", self.cost_per_hour)
        if micro < 0:
            raise BadConfig(f"--cost-per-hour {self.cost_per_hour} is below 0; leave the sign out")
        return Cost(
            micro_per_hour=micro,
            nodes=self.nodes,
            currency=self.currency,
            rates=_rates(self.rates),
        )


def _rates(texts: Sequence[str]) -> Mapping[str, Fraction]:
    rates: dict[str, Fraction] = {}
    for text in texts:
        name, _equals, number = text.partition("=")
        if name not in CURRENCIES or name in rates:
            raise BadConfig(
                f"--rate {text[:40]!r} is not CURRENCY=NUMBER with one of {', '.join(CURRENCIES)}, "
                "each once"
            )
        micro = parse_micro(f"--rate {name}", number)
        if micro <= 0:
            raise BadConfig(f"--rate {text} is not above 0")
        rates[name] = Fraction(micro, MICRO)
    return rates


def run(asked: MarginOptions, days: Days, where: Where) -> None:
    cost = asked.cost()
    now = now_ms()
    from_ms, to_ms = parse_days(days, now)
    to_ms = min(to_ms, now)  # what is to come has not been paid for
    with open_books(where) as db:
        usage = usage_rows(db, ("day", "model"), Chosen(from_ms=from_ms, to_ms=to_ms))
        if days.first is None and days.month is None and usage:
            # Of the last 30 days: before the first request nothing was there to pay for.
            from_ms = max(from_ms, day_bounds_ms(min(row.day for row in usage))[0])
        if from_ms >= to_ms:
            raise BadConfig(f"{show_period(from_ms, from_ms + 1)} is still to come")
        time = ServingTime(from_ms, to_ms)
        for model, started_ms, ended_ms in serving_times(db, from_ms, to_ms):
            time.add(model, started_ms, ended_ms)
    rows = margins(usage, time, cost, from_ms, to_ms)
    whole = by_model(rows, time, to_ms - from_ms)
    if asked.csv is not None:
        save_csv(asked.csv, COLUMNS, _cells(rows))
    if asked.parquet is not None:
        save_parquet(asked.parquet, COLUMNS, _cells(rows))
    if where.as_json:
        print_json(
            {
                "from_ms": from_ms,
                "to_ms": to_ms,
                "currency": cost.currency,
                "days": [_view(row) for row in rows],
                "whole": [_view(row) for row in whole],
            }
        )
        return
    _print(rows, cost)
    print()
    print(f"{show_period(from_ms, to_ms)} (UTC+8), nodes: {cost.nodes}")
    _print(whole, cost)


def _cells(rows: Iterable[MarginRow]) -> list[list[Cell]]:
    return [[getattr(row, name) for name, _kind in COLUMNS] for row in rows]


def _view(row: MarginRow) -> dict[str, object]:
    return msgspec.structs.asdict(row) | {
        "margin_micro": row.margin_micro,
        "margin_share": row.margin_share,
        "cost_per_million_micro": row.cost_per_million_micro,
    }


def _per_million(row: MarginRow) -> str:
    """To the fen: it is an average."""
    micro = row.cost_per_million_micro
    return "" if micro is None else show_micro(rounded(micro, FEN) * FEN)


def _print(rows: Sequence[MarginRow], cost: Cost) -> None:
    columns = [
        show_column([getattr(row, name) for row in rows])
        for name in ("revenue_micro", "cost_micro", "margin_micro")
    ]
    print_table(
        (
            "day",
            "model",
            ">requests",
            ">tokens",
            f">revenue {cost.currency}",
            ">cost",
            ">margin",
            ">of revenue",
            ">cost per M",
            ">busy",
            ">at once",
        ),
        [
            (
                row.day or "all",
                row.model or "all models",
                f"{row.requests:,}",
                f"{row.tokens:,}",
                *(column[index] for column in columns),
                "" if row.margin_share is None else f"{row.margin_share:.1%}",
                _per_million(row),
                "" if row.busy is None else f"{row.busy:.1%}",
                f"{row.at_once:.2f}",
            )
            for index, row in enumerate(rows)
        ],
    )
