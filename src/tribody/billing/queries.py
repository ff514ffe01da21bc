"""Questions to the ledger that reports are made from.  They only read.

A request belongs to the instant that it was priced at, its `started_ms`, and so does what is booked
for it later (its end, an accepted result); anything else to the instant of its entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import NamedTuple, cast

import msgspec

from tribody.billing.entries import granted, topped_up
from tribody.billing.periods import DAY_MS, EPOCH
from tribody.billing.records import Charge
from tribody.billing.reports import COUNTED, Group, UsageRow, grouped
from tribody.billing.results import Decided
from tribody.billing.transfers import Transfer
from tribody.storage.database import Database, Row, Value

MINUTE_MS = 60_000
CHINA_MINUTES = 480
PAGE_ROWS = 4096  # read at a time, so that a month of charges does not have to fit in memory
TRANSFERS = ("top_up", "grant", "refund", "adjust")


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests: of these, begun in [first_ms, last_ms).  Empty = all."""

    tenant: str = ""
    user: str = ""
    key: str = ""
    model: str = ""
    first_ms: int = 0
    last_ms: int = 2**62


_COLUMNS: dict[Group, str] = {
    "tenant": "tenant_id",
    "user": "user_id",
    "key": "key_id",
    "model": "model",
    "route": "route",
    "outcome": "outcome",
}


def _conditions(where: Where) -> tuple[str, list[Value]]:
    """On the table `usage`."""
    texts = ["usage.started_ms >= ?", "usage.started_ms < ?"]
    values: list[Value] = [where.first_ms, where.last_ms]
    for group, name in _COLUMNS.items():
        wanted = getattr(where, group, "")
        if wanted:
            texts.append(f"usage.{name} = ?")
            values.append(wanted)
    return " AND ".join(texts), values


def usage_groups(
    db: Database, where: Where, by: Sequence[Group], offset_minutes: int = CHINA_MINUTES
) -> list[UsageRow]:
    """Requests, tokens and charges (accepted results included), added up.

    Days and months are those of a zone so many minutes ahead of UTC.
    """
    days = "day" in by or "month" in by
    columns = [f"usage.{_COLUMNS[group]}" for group in by if group in _COLUMNS]
    if days:
        columns.append(f"(usage.started_ms + {offset_minutes * MINUTE_MS}) / {DAY_MS}")
    columns.append("usage.currency")
    names = ", ".join(columns)
    condition, values = _conditions(where)
    tokens = ", ".join(f"CAST(SUM(usage.{name}) AS BIGINT)" for name in COUNTED[1:])
    rows = db.rows(
        f"SELECT {names}, COUNT(*), {tokens}, CAST(SUM(usage.charged_micro) AS BIGINT) FROM usage "
        f"WHERE {condition} GROUP BY {names}",
        values,
    )
    results = db.rows(
        f"SELECT {names}, 0, 0, 0, 0, 0, CAST(SUM(results.micro) AS BIGINT) FROM results "
        "JOIN usage ON usage.sequence = results.sequence "
        f"WHERE results.accepted = 1 AND {condition} GROUP BY {names}",
        values,
    )
    groups = [group for group in by if group in _COLUMNS]
    return grouped((_usage_row(row, groups, days) for row in (*rows, *results)), by)


def _usage_row(row: Row, groups: Sequence[Group], days: bool) -> UsageRow:
    named: dict[str, Value] = dict(zip(groups, row, strict=False))
    rest = list(row[len(groups) :])
    if days:
        number = rest.pop(0)
        assert isinstance(number, int)
        named["day"] = _day_name(number)
        named["month"] = _day_name(number)[:7]
    named["currency"] = rest.pop(0)
    named.update(zip((*COUNTED, "charged_micro"), rest, strict=True))
    return msgspec.convert(named, UsageRow)


def _day_name(number: int) -> str:
    return date.fromordinal(EPOCH + number).isoformat()


def first_and_last_ms(db: Database, where: Where) -> tuple[int, int] | None:
    """When the first of these requests began and the last one ended; None without any."""
    condition, values = _conditions(where)
    [(first, last)] = db.rows(
        f"SELECT MIN(started_ms), MAX(ended_ms) FROM usage WHERE {condition}", values
    )
    return None if first is None else cast(tuple[int, int], (first, last))


def times(db: Database, where: Where) -> Iterator[tuple[str, int, int]]:
    """(model, started_ms, ended_ms) of each request, in the order in which they began."""
    condition, values = _conditions(where)
    before: tuple[int, int] = (-1, 0)  # started_ms and sequence of the last one
    while True:
        rows = db.rows(
            f"SELECT model, started_ms, ended_ms, sequence FROM usage WHERE {condition} "
            "AND (started_ms > ? OR (started_ms = ? AND sequence > ?)) "
            "ORDER BY started_ms, sequence LIMIT ?",
            (*values, before[0], *before, PAGE_ROWS),
        )
        for model, started_ms, ended_ms, sequence in cast(list[tuple[str, int, int, int]], rows):
            before = started_ms, sequence
            yield model, started_ms, ended_ms
        if len(rows) < PAGE_ROWS:
            return


# --- what an invoice holds; `upto` is the last entry that is looked at ----------------------------


class Head(NamedTuple):
    """The end of the chain: what is not behind it never changes."""

    sequence: int
    hash: str


class Settled(NamedTuple):
    """A request's charge as it stands in its entry."""

    model: str
    charge: Charge


class Accepted(NamedTuple):
    """A result that was paid for, and the charge of its request."""

    model: str
    charge: Charge
    decided: Decided


def head(db: Database) -> Head:
    [(sequence, digest)] = db.rows("SELECT sequence, hash FROM head WHERE id = 1")
    return Head(cast(int, sequence), cast(str, digest))


def settled(db: Database, where: Where, upto: int) -> Iterator[Settled]:
    """Every request that was settled, charged or not, in the order of its entry."""
    condition, values = _conditions(where)
    decode = msgspec.json.Decoder(Charge).decode
    last = 0
    while True:
        rows = db.rows(
            "SELECT usage.sequence, usage.model, entries.detail FROM usage "
            "JOIN entries ON entries.sequence = usage.sequence AND entries.kind = 'settle' "
            f"WHERE {condition} AND usage.sequence > ? AND usage.sequence <= ? "
            "ORDER BY usage.sequence LIMIT ?",
            (*values, last, upto, PAGE_ROWS),
        )
        for sequence, model, detail in cast(list[tuple[int, str, str]], rows):
            last = sequence
            yield Settled(model, decode(detail))
        if len(rows) < PAGE_ROWS:
            return


def accepted(db: Database, where: Where, upto: int) -> list[Accepted]:
    """Results that were paid for."""
    condition, values = _conditions(where)
    rows = db.rows(
        "SELECT usage.model, first.detail, last.detail FROM results "
        "JOIN usage ON usage.sequence = results.sequence "
        "JOIN entries AS first ON first.sequence = results.sequence "
        "JOIN entries AS last ON last.sequence = results.decided "
        f"WHERE {condition} AND results.accepted = 1 AND results.decided <= ? "
        "ORDER BY results.decided",
        (*values, upto),
    )
    return [
        Accepted(
            model,
            msgspec.json.decode(charge, type=Charge),
            msgspec.json.decode(decided, type=Decided),
        )
        for model, charge, decided in cast(list[tuple[str, str, str]], rows)
    ]


def num_unfinished(db: Database, where: Where, upto: int) -> int:
    """Requests not settled yet, and results that may still be accepted."""
    condition, values = _conditions(where)
    [(results,)] = db.rows(
        "SELECT COUNT(*) FROM results JOIN usage ON usage.sequence = results.sequence "
        f"WHERE {condition} AND usage.sequence <= ? "
        "AND (results.decided IS NULL OR results.decided > ?)",
        (*values, upto, upto),
    )
    [(requests,)] = db.rows(
        "SELECT COUNT(*) FROM requests JOIN entries ON entries.sequence = requests.opened "
        "WHERE entries.tenant_id = ? AND entries.at_ms >= ? AND entries.at_ms < ? "
        "AND requests.opened <= ? AND (requests.closed IS NULL OR requests.closed > ?)",
        (where.tenant, where.first_ms, where.last_ms, upto, upto),
    )
    return cast(int, results) + cast(int, requests)


def transfers(db: Database, where: Where, upto: int) -> list[Transfer]:
    """Money that came or went without a request."""
    rows = db.rows(
        f"SELECT detail FROM entries WHERE kind IN ({', '.join('?' * len(TRANSFERS))}) "
        "AND tenant_id = ? AND at_ms >= ? AND at_ms < ? AND sequence <= ? ORDER BY at_ms, sequence",
        (*TRANSFERS, where.tenant, where.first_ms, where.last_ms, upto),
    )
    return [msgspec.json.decode(str(detail), type=Transfer) for (detail,) in rows]


def purses_before(db: Database, tenant: str, at_ms: int, upto: int) -> dict[str, dict[str, int]]:
    """Granted and topped-up micro-units by currency, of all that belongs before an instant."""
    accounts = {granted(tenant): "granted", topped_up(tenant): "topped_up"}
    rows = db.rows(
        "SELECT postings.currency, postings.account, CAST(SUM(postings.micro) AS BIGINT) "
        "FROM entries JOIN postings ON postings.sequence = entries.sequence "
        "LEFT JOIN usage ON usage.sequence = entries.sequence "
        "LEFT JOIN results ON results.decided = entries.sequence "
        "LEFT JOIN usage AS priced ON priced.sequence = results.sequence "
        "WHERE entries.tenant_id = ? AND postings.account IN (?, ?) AND entries.sequence <= ? "
        "AND COALESCE(usage.started_ms, priced.started_ms, entries.at_ms) < ? "
        "GROUP BY postings.currency, postings.account",
        (tenant, *accounts, upto, at_ms),
    )
    found: dict[str, dict[str, int]] = {}
    for currency, account, micro in cast(list[tuple[str, str, int]], rows):
        found.setdefault(currency, {"granted": 0, "topped_up": 0})[accounts[account]] = micro
    return found
