"""What `tribody usage` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from tribody.billing.exports import Cell, Columns, save_csv, save_parquet, save_text
from tribody.billing.money import show_column, show_micro
from tribody.billing.reports import COUNTED, Group, UsageRow, grouped, money_by_currency, page
from tribody.billing.usage import Chosen, usage_rows
from tribody.cli.account_flags import Days, Where
from tribody.cli.account_texts import parse_days, show_period
from tribody.cli.accounts import now_ms, open_books
from tribody.cli.tables import print_json, print_table
from tribody.cli.usage_png import save_png
from tribody.core.errors import BadConfig

GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class UsageOptions:
    """As typed."""

    by: str
    tenant: str | None
    key: str | None
    model: str | None
    report: Path | None
    png: Path | None
    csv: Path | None
    parquet: Path | None

    def groups(self) -> list[Group]:
        """Raises: BadConfig."""
        names = [name.strip() for name in self.by.split(",") if name.strip()]
        found = [group for name in names for group in GROUPS if group == name]
        if len(found) != len(names) or len(set(found)) != len(found):
            raise BadConfig(f"--by {self.by[:80]!r}: name each of {', '.join(GROUPS)} at most once")
        return found


def run(asked: UsageOptions, days: Days, where: Where) -> None:
    by = asked.groups()
    from_ms, to_ms = parse_days(days, now_ms())
    chosen = Chosen(
        tenant_id=asked.tenant,
        key_id=asked.key,
        model=asked.model,
        from_ms=from_ms,
        to_ms=to_ms,
    )
    with open_books(where) as db:
        rows = usage_rows(db, by, chosen)
        drawn = usage_rows(db, ("day", "tenant"), chosen) if asked.report or asked.png else []
    words = f"{show_period(from_ms, to_ms)} (UTC+8)"
    if asked.report is not None:
        save_text(asked.report, page(drawn, "tribody usage", words))
    if asked.png is not None:
        save_png(asked.png, drawn, words)
    if asked.csv is not None:
        save_csv(asked.csv, _columns(by), _cells(rows, by))
    if asked.parquet is not None:
        save_parquet(asked.parquet, _columns(by), _cells(rows, by))
    if where.as_json:
        print_json([_view(row, by) for row in rows])
        return
    written = [file for file in (asked.report, asked.png, asked.csv, asked.parquet) if file]
    if written:
        print(f"written: {', '.join(str(file) for file in written)}")
        return
    _print(rows, by, words)


def _columns(by: Sequence[Group]) -> Columns:
    names: Columns = [*((group, "text") for group in by), ("currency", "text")]
    return [*names, *((name, "integer") for name in (*COUNTED, "charged_micro"))]


def _cells(rows: Sequence[UsageRow], by: Sequence[Group]) -> list[list[Cell]]:
    names = (*by, "currency", *COUNTED, "charged_micro")
    return [[getattr(row, name) for name in names] for row in rows]


def _view(row: UsageRow, by: Sequence[Group]) -> dict[str, object]:
    """Without the groups that were not asked for."""
    fields = msgspec.structs.asdict(row)
    kept = {name: value for name, value in fields.items() if name not in GROUPS or name in by}
    return kept | {"hit_rate": round(row.hit_rate, 6)}


def _print(rows: Sequence[UsageRow], by: Sequence[Group], words: str) -> None:
    if not rows:
        print(f"no requests, {words}")
        return
    money = show_column([row.charged_micro for row in rows])
    table = [
        (
            *(getattr(row, group) for group in by),
            f"{row.requests:,}",
            f"{row.prompt_tokens:,}",
            f"{row.cached_tokens:,}",
            f"{row.hit_rate:.1%}",
            f"{row.completion_tokens:,}",
            f"{row.reasoning_tokens:,}",
            amount if row.currency else "",
            row.currency,
        )
        for row, amount in zip(rows, money, strict=True)
    ]
    figures = (">requests", ">prompt", ">cached", ">hit rate", ">completion", ">reasoning")
    print_table((*by, *figures, ">charged", ""), table)
    whole = grouped([msgspec.structs.replace(row, currency="") for row in rows], ())[0]
    charged = ", ".join(
        f"{show_micro(micro)} {currency}" for currency, micro in money_by_currency(rows).items()
    )
    print(
        f"{words}: {whole.requests:,} requests, {whole.prompt_tokens:,} prompt tokens "
        f"({whole.hit_rate:.1%} cached), {whole.completion_tokens:,} completion tokens, "
        f"charged {charged or 'nothing'}"
    )
