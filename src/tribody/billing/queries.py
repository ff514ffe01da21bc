"""Questions to the ledger that only reports ask: the end of the chain, a tenant's month, days of
another time zone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from fractions import Fraction
from typing import cast

from tribody.billing.entries import chain_end
from tribody.billing.exports import Cell, Columns
from tribody.billing.invoice import Invoice, uncharged_of
from tribody.billing.periods import DAY_MS, EPOCH, month_bounds_ms
from tribody.billing.pricing import NOTHING_USED, FreeUsed, more_used, priced
from tribody.billing.reports import UsageRow, grouped
from tribody.billing.statements import purses_at, statement
from tribody.billing.tariffs import Tariff
from tribody.billing.transfers import balances
from tribody.billing.usage import BookedUsage, Chosen, usage_rows
from tribody.billing.verify import Head
from tribody.storage.database import Database

MINUTE_MS = 60_000
LAST_MS = 2**62
PAGE_ROWS = 1000  # read at a time: about a megabyte


def head(db: Database) -> Head:
    return Head(*chain_end(db))


def invoices(
    db: Database, tenant_id: str, tenant_name: str, currency: str, month: str, made_ms: int
) -> list[Invoice]:
    """One in the tenant's own currency, and one in each other that something happened in.

    Raises: ValueError when it is no month; StorageFailed when the ledger contradicts itself.
    """
    from_ms, to_ms = month_bounds_ms(month)
    chosen = Chosen(tenant_id=tenant_id, from_ms=from_ms, to_ms=to_ms)
    uncharged = uncharged_of(usage_rows(db, ("outcome",), chosen))
    others = [one.currency for one in balances(db, tenant_id) if one.currency != currency]
    found = []
    for name in (currency, *others):
        of = statement(db, tenant_id, name, from_ms, to_ms)
        if name != currency and not (of.lines or of.rules):
            continue
        invoice = Invoice(
            statement=of,
            tenant_name=tenant_name,
            month=month,
            made_ms=made_ms,
            head=head(db),
            uncharged=uncharged if name == currency else [],
        )
        if invoice.is_final:  # until then a server may be booking
            invoice.check(purses_at(db, tenant_id, name, to_ms))
        found.append(invoice)
    return found


class UpstreamUsage:
    """Our usage as an upstream would bill it: by the days (or months) of its zone and by model.

    With its prices (a tariff) also what its bill should say, each request rounded once.
    """

    def __init__(self, offset_minutes: int, *, by_month: bool, prices: Tariff | None) -> None:
        self._offset_ms = offset_minutes * MINUTE_MS
        self._by_month = by_month
        self._prices = prices
        self._free_used: dict[tuple[str, str], FreeUsed] = {}
        self.rows: list[UsageRow] = []
        self.expected: dict[tuple[str, str], dict[str, Fraction]] = {}

    def read(self, records: Iterable[BookedUsage]) -> UpstreamUsage:
        """Raises: NoPrice."""
        found: dict[tuple[str, str, str], list[int]] = {}
        for booked in records:
            record = booked.record
            period = self._period(record.ended_ms)
            counts = record.counts
            sums = found.setdefault((period, record.model, booked.currency), [0] * 6)
            for index, number in enumerate(
                (
                    1,
                    counts.prompt_tokens,
                    counts.cached_tokens,
                    counts.completion_tokens,
                    counts.reasoning_tokens,
                    booked.charged_micro,
                )
            ):
                sums[index] += number
            if self._prices is not None:
                self._expect(period, booked)
        self.rows = grouped(
            [
                UsageRow(
                    day="" if self._by_month else period,
                    month=period[:7],
                    model=model,
                    currency=currency,
                    requests=sums[0],
                    prompt_tokens=sums[1],
                    cached_tokens=sums[2],
                    completion_tokens=sums[3],
                    reasoning_tokens=sums[4],
                    charged_micro=sums[5],
                )
                for (period, model, currency), sums in found.items()
            ],
            ("month", "day", "model"),
        )
        return self

    def _expect(self, period: str, booked: BookedUsage) -> None:
        assert self._prices is not None
        record = booked.record
        quote = self._prices.find(
            model=record.model,
            tenant_id="",
            at_ms=record.started_ms,
            prompt_tokens=record.counts.prompt_tokens,
            is_batch=record.is_batch,
        )
        free = quote.free
        name = ("", "") if free is None else (free.allowance_id, free.period)
        used = self._free_used.get(name, NOTHING_USED)
        price = priced(quote, record.counts, used)
        self._free_used[name] = more_used(used, price)
        of_period = self.expected.setdefault((period, record.model), {})
        before = of_period.get(quote.currency, Fraction())
        of_period[quote.currency] = before + price.total_micro

    def _period(self, at_ms: int) -> str:
        day = date.fromordinal(EPOCH + (at_ms + self._offset_ms) // DAY_MS).isoformat()
        return day[:7] if self._by_month else day


POSTING_COLUMNS: Columns = [
    ("sequence", "integer"),
    ("at_ms", "integer"),
    ("kind", "text"),
    ("tenant_id", "text"),
    ("request_id", "text"),
    ("line", "integer"),
    ("account", "text"),
    ("currency", "text"),
    ("micro", "integer"),
    ("detail", "text"),
    ("hash", "text"),
]


def postings(db: Database, chosen: Chosen) -> Iterator[list[Cell]]:
    """Every entry booked in a period, a row for each of its postings, or one without any."""
    last = (0, -1)
    while True:
        rows = db.rows(
            "SELECT entries.sequence, at_ms, kind, tenant_id, request_id, line, account, currency, "
            "micro, detail, hash FROM entries "
            "LEFT JOIN postings ON postings.sequence = entries.sequence "
            "WHERE at_ms >= ? AND at_ms < ? AND (tenant_id = ? OR ? = '') "
            "AND (entries.sequence > ? OR (entries.sequence = ? AND line > ?)) "
            "ORDER BY entries.sequence, line LIMIT ?",
            (
                chosen.from_ms or 0,
                LAST_MS if chosen.to_ms is None else chosen.to_ms,
                *(chosen.tenant_id or "",) * 2,
                last[0],
                *last,
                PAGE_ROWS,
            ),
        )
        for row in cast(list[tuple[int | str, ...]], rows):
            yield list(row)
        if len(rows) < PAGE_ROWS:
            return
        last = cast(int, rows[-1][0]), cast(int | None, rows[-1][5]) or 0
