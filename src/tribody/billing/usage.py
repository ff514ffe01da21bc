"""What was used, as the ledger has it: single records, and sums by day, tenant, key and so on.

Everything here goes by the instant of booking: that at which the request ended, or its answer was
accepted.  So days add up to months, and months agree with statements, however long a request ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from tribody.billing.entries import USAGE_COLUMNS
from tribody.billing.periods import AHEAD_MS, DAY_MS, day_name
from tribody.billing.reports import Group, UsageRow, grouped
from tribody.core.metering import Counts, UsageRecord
from tribody.storage.database import Database, Row, Value

PAGE_ROWS = 2000  # read at a time: about a megabyte
GROUPED = ("tenant_id", "user_id", "key_id", "model", "route", "outcome")
SUMMED = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "charged_micro",
)


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests: all of them, less what is not wanted.  Ended in [from_ms, to_ms)."""

    tenant_id: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


EVERYTHING = Chosen()


class BookedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A usage record with what was taken for its tokens, by which rule (empty: by none)."""

    sequence: int
    record: UsageRecord
    currency: str
    charged_micro: int
    tariff_digest: str
    rule_id: str


def usage_rows(
    db: Database, by: Sequence[Group] = (), chosen: Chosen = EVERYTHING
) -> list[UsageRow]:
    """Sums by these groups and the currency, in their order.

    The price of an accepted answer is in the row of its request, on the day of the acceptance.
    """
    condition, values = _where(chosen)
    number = f"(entries.at_ms + {AHEAD_MS}) / {DAY_MS}"
    groups = f"{number}, {', '.join(f'usage.{name}' for name in GROUPED)}"
    used = db.rows(
        f"SELECT {groups}, usage.currency, count(*), "
        f"{', '.join(f'CAST(sum(usage.{name}) AS BIGINT)' for name in SUMMED)} "
        "FROM usage JOIN entries ON entries.sequence = usage.sequence "
        f"WHERE {condition} GROUP BY {groups}, usage.currency",
        values,
    )
    accepted = db.rows(
        f"SELECT {groups}, results.currency, 0, 0, 0, 0, 0, CAST(sum(results.micro) AS BIGINT) "
        "FROM results JOIN entries ON entries.sequence = results.decided "
        "JOIN usage ON usage.sequence = results.sequence "
        f"WHERE results.accepted = 1 AND {condition} GROUP BY {groups}, results.currency",
        values,
    )
    return grouped([_usage_row(row) for row in [*used, *accepted]], by)


def usage_records(db: Database, chosen: Chosen = EVERYTHING) -> Iterator[BookedUsage]:
    """One by one, in the order in which they were booked."""
    condition, values = _where(chosen)
    columns = ", ".join(f"usage.{name}" for name in USAGE_COLUMNS.split(", "))
    last = 0
    while True:
        rows = db.rows(
            f"SELECT {columns} FROM usage JOIN entries ON entries.sequence = usage.sequence "
            f"WHERE usage.sequence > ? AND {condition} ORDER BY usage.sequence LIMIT {PAGE_ROWS}",
            (last, *values),
        )
        for row in rows:
            yield read_usage(row)
        if len(rows) < PAGE_ROWS:
            return
        last = cast(int, rows[-1][0])


def serving_times(db: Database, from_ms: int, to_ms: int) -> Iterator[tuple[str, int, int]]:
    """(model, started_ms, ended_ms) of the requests that ran in [from_ms, to_ms), by their start:
    what a margin divides the cost of machines by."""
    rows = db.rows(
        "SELECT model, started_ms, ended_ms FROM usage WHERE started_ms < ? AND ended_ms > ? "
        "ORDER BY started_ms, sequence",
        (to_ms, from_ms),
    )
    return iter(cast(list[tuple[str, int, int]], rows))


def read_usage(row: Row) -> BookedUsage:
    """A row of the table, its columns in the order of USAGE_COLUMNS."""
    values = cast(tuple[Any, ...], row)
    return BookedUsage(
        sequence=values[0],
        record=UsageRecord(
            request_id=values[1],
            tenant_id=values[2],
            user_id=values[3],
            key_id=values[4],
            model=values[5],
            route=values[6],
            streamed=bool(values[7]),
            is_batch=bool(values[8]),
            started_ms=values[9],
            ended_ms=values[10],
            counts=Counts(
                prompt_tokens=values[11],
                cached_tokens=values[12],
                completion_tokens=values[13],
                reasoning_tokens=values[14],
            ),
            outcome=values[15],
        ),
        currency=values[16],
        charged_micro=values[17],
        tariff_digest=values[18],
        rule_id=values[19],
    )


def _usage_row(row: Row) -> UsageRow:
    number, *values = cast(tuple[Any, ...], row)
    day = day_name(number)
    return UsageRow(
        day=day,
        month=day[:7],
        tenant=values[0],
        user=values[1],
        key=values[2],
        model=values[3],
        route=values[4],
        outcome=values[5],
        currency=values[6],
        requests=values[7],
        prompt_tokens=values[8],
        cached_tokens=values[9],
        completion_tokens=values[10],
        reasoning_tokens=values[11],
        charged_micro=values[12],
    )


def _where(chosen: Chosen) -> tuple[str, list[Value]]:
    """The condition on `usage` and the `entries` that it was booked by, and its values."""
    wanted: list[tuple[str, Value]] = [
        ("usage.user_id =", chosen.user_id),
        ("usage.key_id =", chosen.key_id),
        ("usage.model =", chosen.model),
        ("entries.at_ms >=", chosen.from_ms),
        ("entries.at_ms <", chosen.to_ms),
        ("entries.tenant_id =", chosen.tenant_id),
    ]
    given = [(text, value) for text, value in wanted if value is not None]
    return " AND ".join(["1 = 1", *(f"{text} ?" for text, _ in given)]), [v for _, v in given]
