"""What the requests of a period would have cost by another price list.

Each request is priced at its own instant, by the length that its quote was found for, and rounded
by itself, as it was.  Free allowances are counted from the beginning of the period, as if nothing
had been used before it.  Nothing is written.
"""

from __future__ import annotations

from typing import cast

import msgspec

from tribody.billing.pricing import NOTHING_USED, FreeUsed, more_used, priced
from tribody.billing.records import CHARGED
from tribody.billing.reservations import read_reservation
from tribody.billing.tariffs import Tariff
from tribody.billing.usage import BookedUsage, Chosen, usage_records
from tribody.core.errors import NoPrice
from tribody.storage.database import Database


class ReplayRow(msgspec.Struct, kw_only=True):
    """One model of one tenant in one currency.

    `charged_micro` is what it cost, `replayed_micro` what it would have; accepted answers are in
    both.  `unpriced` requests have no price in the other list; `reason` is that of the first one.
    """

    tenant: str
    model: str
    currency: str
    requests: int = 0
    charged_micro: int = 0
    replayed_micro: int = 0
    unpriced: int = 0
    reason: str = ""


def replay(db: Database, tariff: Tariff, chosen: Chosen) -> list[ReplayRow]:
    """By tenant, model and currency; requests that ended by our failure stay free.

    A request without a charge is priced in the list's own currency.
    """
    rows: dict[tuple[str, str, str], ReplayRow] = {}
    free_used: dict[tuple[str, str, str], FreeUsed] = {}
    for booked in usage_records(db, chosen):
        record = booked.record
        if record.outcome not in CHARGED:
            continue
        currency = booked.currency or tariff.prices.currency
        name = record.tenant_id, record.model, currency
        row = rows.setdefault(name, ReplayRow(tenant=name[0], model=name[1], currency=name[2]))
        accepted_micro = _accepted_micro(db, booked)
        row.requests += 1
        row.charged_micro += booked.charged_micro + (accepted_micro or 0)
        try:
            quote = tariff.find(
                model=record.model,
                tenant_id=record.tenant_id,
                at_ms=record.started_ms,
                prompt_tokens=_quoted_length(db, booked),
                is_batch=record.is_batch,
                currency=currency,
            )
        except NoPrice as error:
            row.unpriced += 1
            row.reason = row.reason or str(error)
            continue
        free = quote.free
        used = ("", "", "") if free is None else (record.tenant_id, free.allowance_id, free.period)
        price = priced(quote, record.counts, free_used.get(used, NOTHING_USED))
        if free is not None:
            free_used[used] = more_used(free_used.get(used, NOTHING_USED), price)
        row.replayed_micro += price.total_micro
        row.replayed_micro += quote.result_micro if accepted_micro is not None else 0
    return [rows[name] for name in sorted(rows)]


def _accepted_micro(db: Database, booked: BookedUsage) -> int | None:
    """What was paid for the answer itself; None where it was not accepted."""
    rows = db.rows(
        "SELECT micro FROM results WHERE sequence = ? AND accepted = 1", (booked.sequence,)
    )
    return cast(int, rows[0][0]) if rows else None


def _quoted_length(db: Database, booked: BookedUsage) -> int:
    rows = db.rows(
        "SELECT entries.detail FROM requests JOIN entries ON entries.sequence = requests.opened "
        "WHERE requests.request_id = ?",
        (booked.record.request_id,),
    )
    if not rows:  # recorded without a reservation
        return booked.record.counts.prompt_tokens
    return read_reservation(str(rows[0][0])).prompt_tokens
