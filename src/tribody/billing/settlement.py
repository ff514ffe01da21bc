"""Settlement: each request is charged exactly once, whatever way out it takes.

The rule for requests that were cut short: when the caller left or had waited too long, the prompt
is charged once prefill has run, and completion tokens as they were generated; what went wrong on
our side (an error, a restart, a shutdown, a refusal after admission) is recorded and free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from tribody.billing import totals
from tribody.billing.entries import (
    HOLDS,
    Entry,
    Posting,
    Usage,
    account_balances,
    append,
    granted,
    held,
    income,
    topped_up,
)
from tribody.billing.pricing import NOTHING_USED, FreeUsed, Kind, priced
from tribody.billing.records import CHARGED, Charge, Reservation, UnknownRequest
from tribody.billing.reservations import place_of, read_reservation
from tribody.core.metering import Counts, Outcome, UsageRecord
from tribody.storage.database import Database

KINDS: tuple[Kind, ...] = ("hit", "miss", "output", "reasoning")

_decoder = msgspec.json.Decoder(Charge)


def settle(
    db: Database, request_id: str, counts: Counts, outcome: Outcome, ended_ms: int
) -> Charge:
    """Charge for `counts` and let go of the rest.  A second call returns the first Charge.

    The charge is booked at `ended_ms`.  It is not limited by what was held.

    Raises: UnknownRequest when nothing was reserved; ValueError on counts that contradict
        themselves.
    """
    rows = db.rows(
        "SELECT requests.closed, entries.detail FROM requests "
        "JOIN entries ON entries.sequence = coalesce(requests.closed, requests.opened) "
        "WHERE requests.request_id = ? AND requests.opened IS NOT NULL",
        (request_id,),
    )
    if not rows:
        raise UnknownRequest(request_id, "reservation")
    closed, detail = rows[0]
    if closed is not None:
        return read_charge(str(detail))
    reservation = read_reservation(str(detail))
    on = _balances(db, reservation)
    charge = charge_for(
        reservation,
        counts,
        outcome,
        ended_ms,
        free_used=_free_used(db, reservation),
        granted_micro=on.get(granted(reservation.tenant_id), 0),
    )
    sequence = append(db, settlement_entry(reservation, charge, ended_ms), on)
    totals.add(db, place_of(reservation), settled_change(reservation, charge))
    db.run("UPDATE requests SET closed = ? WHERE request_id = ?", (sequence, request_id))
    _count_free(db, charge)
    if charge.result_micro:
        db.run(
            "INSERT INTO results (sequence, request_id, tenant_id, model, currency, micro, "
            "until_ms, accepted) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            (
                sequence,
                request_id,
                reservation.tenant_id,
                reservation.model,
                charge.currency,
                charge.result_micro,
                charge.result_until_ms,
            ),
        )
    return charge


def read_charge(detail: str) -> Charge:
    return _decoder.decode(detail)


def record(db: Database, usage: UsageRecord) -> None:
    """Without accounts: what a request has used, once; nothing is charged."""
    if db.rows("SELECT 1 FROM requests WHERE request_id = ?", (usage.request_id,)):
        return
    sequence = append(db, usage_entry(usage))
    db.run(
        "INSERT INTO requests (request_id, node_id, closed) VALUES (?, '', ?)",
        (usage.request_id, sequence),
    )
    place, change = recorded_change(usage)
    totals.add(db, place, change)


class NoDetail(msgspec.Struct, frozen=True):
    """Of an entry that its usage record says all about."""


def recover(db: Database, node_id: str, at_ms: int) -> int:
    """When a node starts: what it had left open ends as "restart".  Returns how many those were."""
    rows = db.rows(
        "SELECT request_id FROM requests WHERE closed IS NULL AND node_id = ? ORDER BY opened",
        (node_id,),
    )
    for (request_id,) in rows:
        settle(db, str(request_id), Counts(), "restart", at_ms)
    return len(rows)


# --- what follows from what, without a database: `verify` asks for it again ----------------------


def charge_for(
    reservation: Reservation,
    counts: Counts,
    outcome: Outcome,
    ended_ms: int,
    *,
    free_used: FreeUsed,
    granted_micro: int,
) -> Charge:
    """What a request comes to; `granted_micro` is what its tenant has of granted money."""
    quote = reservation.quote
    if quote is None or outcome not in CHARGED:
        return Charge(
            request_id=reservation.request_id,
            tenant_id=reservation.tenant_id,
            outcome=outcome,
            counts=counts,
            quote=quote,
            currency="" if quote is None else quote.currency,
        )
    price = priced(quote, counts, free_used)
    has_result = outcome == "finished" and quote.result_micro > 0
    return Charge(
        request_id=reservation.request_id,
        tenant_id=reservation.tenant_id,
        outcome=outcome,
        counts=counts,
        quote=quote,
        priced=price,
        free_used=free_used,
        currency=quote.currency,
        micro=price.total_micro,
        granted_micro=from_granted(price.total_micro, granted_micro),
        result_micro=quote.result_micro if has_result else 0,
        result_until_ms=ended_ms + 1000 * quote.accept_seconds if has_result else 0,
    )


def from_granted(micro: int, granted_micro: int) -> int:
    """How much of an amount comes from granted money, which goes first."""
    return min(micro, max(granted_micro, 0))


def taking(
    tenant_id: str, model: str, currency: str, micro: int, granted_micro: int
) -> tuple[Posting, ...]:
    """The postings by which money becomes income."""
    return (
        Posting(granted(tenant_id), currency, -granted_micro),
        Posting(topped_up(tenant_id), currency, granted_micro - micro),
        Posting(income(model), currency, micro),
    )


def release(tenant_id: str, currency: str, micro: int) -> tuple[Posting, ...]:
    """The postings by which what was held no longer is."""
    return Posting(held(tenant_id), currency, -micro), Posting(HOLDS, currency, micro)


def settlement_entry(reservation: Reservation, charge: Charge, ended_ms: int) -> Entry:
    tenant_id, currency = reservation.tenant_id, charge.currency
    return Entry(
        "settle",
        ended_ms,
        tenant_id,
        reservation.request_id,
        charge,
        (
            *release(tenant_id, currency, reservation.worst_micro - charge.result_micro),
            *taking(tenant_id, reservation.model, currency, charge.micro, charge.granted_micro),
        ),
        _usage(reservation, charge, ended_ms),
    )


def usage_entry(usage: UsageRecord) -> Entry:
    return Entry(
        "usage", usage.ended_ms, usage.tenant_id, usage.request_id, NoDetail(), usage=Usage(usage)
    )


def settled_change(reservation: Reservation, charge: Charge) -> totals.Change:
    return totals.Change(
        tokens=_tokens(charge.counts) if charge.outcome in CHARGED else 0,
        micro=charge.micro,
        held_tokens=-reservation.worst_tokens,
        held_micro=charge.result_micro - reservation.worst_micro,
    )


def recorded_change(usage: UsageRecord) -> tuple[totals.Place, totals.Change]:
    tokens = _tokens(usage.counts) if usage.outcome in CHARGED else 0
    place = totals.Place(usage.tenant_id, usage.key_id, usage.started_ms, "")
    return place, totals.Change(tokens=tokens)


def free_tokens(charge: Charge) -> tuple[int, ...]:
    """How many of each kind were free, in the order of KINDS."""
    if charge.priced is None:
        return (0,) * len(KINDS)
    free = {line.kind: line.free_tokens for line in charge.priced.lines}
    return tuple(free.get(kind, 0) for kind in KINDS)


def _usage(reservation: Reservation, charge: Charge, ended_ms: int) -> Usage:
    record = UsageRecord(
        request_id=reservation.request_id,
        tenant_id=reservation.tenant_id,
        user_id=reservation.user_id,
        key_id=reservation.key_id,
        model=reservation.model,
        route=reservation.route,
        streamed=reservation.streamed,
        is_batch=reservation.is_batch,
        started_ms=reservation.at_ms,
        ended_ms=ended_ms,
        counts=charge.counts,
        outcome=charge.outcome,
    )
    if charge.quote is None:
        return Usage(record)
    return Usage(
        record, charge.currency, charge.micro, charge.quote.tariff_digest, charge.quote.rule_id
    )


def _tokens(counts: Counts) -> int:
    return counts.prompt_tokens + counts.completion_tokens


# --- the database -------------------------------------------------------------------------------


def _balances(db: Database, reservation: Reservation) -> dict[str, int]:
    """Of the accounts that a settlement posts to, in the currency of its quote."""
    if reservation.quote is None:
        return {}
    tenant_id = reservation.tenant_id
    accounts = (
        held(tenant_id),
        HOLDS,
        granted(tenant_id),
        topped_up(tenant_id),
        income(reservation.model),
    )
    return account_balances(db, accounts, reservation.quote.currency)


def _free_used(db: Database, reservation: Reservation) -> FreeUsed:
    if reservation.quote is None or reservation.quote.free is None:
        return NOTHING_USED
    free = reservation.quote.free
    rows = db.rows(
        "SELECT hit, miss, output, reasoning FROM free_used "
        "WHERE tenant_id = ? AND allowance_id = ? AND period = ?",
        (reservation.tenant_id, free.allowance_id, free.period),
    )
    if not rows:
        return NOTHING_USED
    return free_used_of(cast(tuple[int, ...], rows[0]))


def free_used_of(tokens: Sequence[int]) -> FreeUsed:
    """Of tokens in the order of KINDS."""
    hit, miss, output, reasoning = tokens
    return FreeUsed(hit=hit, miss=miss, output=output, reasoning=reasoning)


def _count_free(db: Database, charge: Charge) -> None:
    tokens = free_tokens(charge)
    if charge.quote is None or charge.quote.free is None or not any(tokens):
        return
    db.run(
        "INSERT INTO free_used (tenant_id, allowance_id, period, hit, miss, output, reasoning) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant_id, allowance_id, period) DO UPDATE SET "
        "hit = free_used.hit + excluded.hit, miss = free_used.miss + excluded.miss, "
        "output = free_used.output + excluded.output, "
        "reasoning = free_used.reasoning + excluded.reasoning",
        (charge.tenant_id, charge.quote.free.allowance_id, charge.quote.free.period, *tokens),
    )
