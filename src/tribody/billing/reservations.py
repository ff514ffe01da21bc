"""Admission: the worst that a request may come to is held before it starts.

What is held stays on its accounts and only lowers what is available, so granted money goes first
whenever something is really taken.
"""

from __future__ import annotations

from typing import cast

import msgspec

from tribody.billing import totals
from tribody.billing.entries import (
    HOLDS,
    Entry,
    Posting,
    account_balances,
    append,
    granted,
    held,
    topped_up,
)
from tribody.billing.money import MAX_MICRO
from tribody.billing.records import (
    KEPT_KEY,
    AlreadyReserved,
    AmountRefused,
    IdempotencyConflict,
    NoBalance,
    Reservation,
)
from tribody.storage.database import Database

MAX_TOKENS = 10**12  # of one request: more is a mistake, and sums of them fit the database


def reserve(db: Database, reservation: Reservation) -> None:
    """Hold `worst_micro` and `worst_tokens`.

    A key whose request ended by our failure, or never began, may be used again; it then stands for
    the new request.

    Raises: AlreadyReserved, IdempotencyConflict, CapReached, NoBalance; AmountRefused when an
        amount is negative or beyond all sense.
    """
    _check_amounts(reservation)
    _refuse_twice(db, reservation)
    place = place_of(reservation)
    totals.check_caps(db, reservation, place)
    worst = reservation.worst_micro
    known = (
        check_available(db, reservation.tenant_id, place.currency, worst, reservation.credit_micro)
        if worst
        else {}
    )
    sequence = append(db, reservation_entry(reservation), known)
    totals.add(db, place, held_change(reservation))
    db.run(
        "INSERT INTO requests (request_id, node_id, opened) VALUES (?, ?, ?)",
        (reservation.request_id, reservation.node_id, sequence),
    )
    if reservation.idempotency_key is not None:
        remember_key(
            db,
            request_keys(reservation.tenant_id),
            reservation.idempotency_key,
            reservation.body_digest or "",
            sequence,
        )


def place_of(reservation: Reservation) -> totals.Place:
    currency = "" if reservation.quote is None else reservation.quote.currency
    return totals.Place(reservation.tenant_id, reservation.key_id, reservation.at_ms, currency)


def reservation_entry(reservation: Reservation) -> Entry:
    currency, worst = place_of(reservation).currency, reservation.worst_micro
    return Entry(
        "reserve",
        reservation.at_ms,
        reservation.tenant_id,
        reservation.request_id,
        reservation,
        (Posting(held(reservation.tenant_id), currency, worst), Posting(HOLDS, currency, -worst)),
    )


def held_change(reservation: Reservation) -> totals.Change:
    return totals.Change(held_tokens=reservation.worst_tokens, held_micro=reservation.worst_micro)


def check_available(
    db: Database, tenant_id: str, currency: str, needed_micro: int, credit_micro: int = 0
) -> dict[str, int]:
    """The balances that were read for it.

    Raises: NoBalance when less than that is neither spent nor held.
    """
    accounts = (granted(tenant_id), topped_up(tenant_id), held(tenant_id), HOLDS)
    on = account_balances(db, accounts, currency)
    available = on[accounts[0]] + on[accounts[1]] - on[accounts[2]] + credit_micro
    if available < needed_micro:
        raise NoBalance(needed_micro, available, currency)
    return on


def open_reservations(db: Database, node_id: str | None = None) -> list[Reservation]:
    """Those that were not settled yet: of one node, or all; the oldest first."""
    of_node = "" if node_id is None else "AND requests.node_id = ? "
    rows = db.rows(
        "SELECT entries.detail FROM requests JOIN entries ON entries.sequence = requests.opened "
        f"WHERE requests.closed IS NULL {of_node}ORDER BY requests.opened",
        () if node_id is None else (node_id,),
    )
    return [read_reservation(str(detail)) for (detail,) in rows]


def num_open_reservations(db: Database) -> int:
    """How many were not settled yet."""
    [(count,)] = db.rows("SELECT COUNT(*) FROM requests WHERE closed IS NULL")
    return cast(int, count)


_decoder = msgspec.json.Decoder(Reservation)


def read_reservation(detail: str) -> Reservation:
    return _decoder.decode(detail)


def state_of(db: Database, request_id: str) -> str | None:
    """ "open", its outcome, or None when the ledger has not heard of it."""
    rows = db.rows(
        "SELECT usage.outcome FROM requests LEFT JOIN usage ON usage.sequence = requests.closed "
        "WHERE requests.request_id = ?",
        (request_id,),
    )
    if not rows:
        return None
    return "open" if rows[0][0] is None else str(rows[0][0])


def request_keys(tenant_id: str) -> str:
    """The scope of the idempotency keys of a tenant's requests."""
    return f"tenant/{tenant_id}/requests"


def remember_key(db: Database, scope: str, key: str, body_digest: str, sequence: int) -> None:
    db.run(
        "INSERT INTO idempotency (scope, key, body_digest, sequence) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (scope, key) DO UPDATE SET body_digest = excluded.body_digest, "
        "sequence = excluded.sequence",
        (scope, key, body_digest, sequence),
    )


def first_with_key(db: Database, scope: str, key: str, body_digest: str) -> int | None:
    """The entry that has this idempotency key.  Raises: IdempotencyConflict: another body."""
    rows = db.rows(
        "SELECT body_digest, sequence FROM idempotency WHERE scope = ? AND key = ?", (scope, key)
    )
    if not rows:
        return None
    digest, sequence = cast(tuple[str, int], rows[0])
    if digest != body_digest:
        raise IdempotencyConflict(key)
    return sequence


def _refuse_twice(db: Database, reservation: Reservation) -> None:
    if reservation.idempotency_key is not None:
        first = first_with_key(
            db,
            request_keys(reservation.tenant_id),
            reservation.idempotency_key,
            reservation.body_digest or "",
        )
        if first is not None:
            [(first_id,)] = db.rows("SELECT request_id FROM entries WHERE sequence = ?", (first,))
            state = state_of(db, str(first_id))
            if state == "open" or state in KEPT_KEY:
                raise AlreadyReserved(str(first_id), str(state))
    state = state_of(db, reservation.request_id)
    if state is not None:
        raise AlreadyReserved(reservation.request_id, state)


def _check_amounts(reservation: Reservation) -> None:
    for what, amount, most in (
        ("worst_micro", reservation.worst_micro, MAX_MICRO),
        ("worst_tokens", reservation.worst_tokens, MAX_TOKENS),
        ("credit_micro", reservation.credit_micro, MAX_MICRO),
    ):
        if not 0 <= amount <= most:
            raise AmountRefused(f"{what} is {amount}; it has to be from 0 to {most}")
    if reservation.quote is None and reservation.worst_micro:
        raise AmountRefused("worst_micro needs a quote, which says the currency")
