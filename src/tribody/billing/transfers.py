"""Money that comes and goes without a request: paid in, granted, paid back, corrected.

Each has an idempotency key of its tenant: the same one twice is one effect, and returns the same
entry.  `who` is whoever ordered it, as the ledger keeps it.
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from tribody.billing.entries import (
    ADJUSTMENTS,
    CASH,
    PROMOTIONS,
    Entry,
    Posting,
    account_balances,
    append,
    granted,
    topped_up,
)
from tribody.billing.money import CURRENCIES, MAX_MICRO
from tribody.billing.records import AmountRefused, Balance, NoBalance, Purse
from tribody.billing.reservations import check_available, first_with_key, remember_key
from tribody.storage.database import Database

TransferKind = Literal["top_up", "grant", "refund", "adjust"]
OTHER_SIDE = {"top_up": CASH, "refund": CASH, "grant": PROMOTIONS, "adjust": ADJUSTMENTS}


class Transfer(msgspec.Struct, frozen=True):
    """One of them, as it stands in its entry: so much more (or less) in one purse of a tenant."""

    kind: TransferKind
    tenant_id: str
    amount_micro: int
    currency: str
    idempotency_key: str
    note: str
    at_ms: int
    who: str
    purse: Purse = "topped_up"


def top_up(
    db: Database,
    tenant_id: str,
    amount_micro: int,
    currency: str,
    idempotency_key: str,
    note: str,
    at_ms: int,
    who: str,
) -> int:
    """The tenant has paid.  Returns the sequence number of the entry.

    Raises: AmountRefused, IdempotencyConflict.
    """
    _check_positive(amount_micro)
    return _transfer(
        db,
        Transfer("top_up", tenant_id, amount_micro, currency, idempotency_key, note, at_ms, who),
    )


def grant(
    db: Database,
    tenant_id: str,
    amount_micro: int,
    currency: str,
    idempotency_key: str,
    note: str,
    at_ms: int,
    who: str,
) -> int:
    """A gift; spent before what was paid.  Otherwise as `top_up`."""
    _check_positive(amount_micro)
    return _transfer(
        db,
        Transfer(
            "grant",
            tenant_id,
            amount_micro,
            currency,
            idempotency_key,
            note,
            at_ms,
            who,
            "granted",
        ),
    )


def refund(
    db: Database,
    tenant_id: str,
    amount_micro: int,
    currency: str,
    idempotency_key: str,
    note: str,
    at_ms: int,
    who: str,
) -> int:
    """Money that was paid is paid back; `amount_micro` is positive.

    Raises: NoBalance when less than that was paid and is neither spent nor held; else as `top_up`.
    """
    _check_positive(amount_micro)
    return _transfer(
        db,
        Transfer("refund", tenant_id, -amount_micro, currency, idempotency_key, note, at_ms, who),
    )


def adjust(
    db: Database,
    tenant_id: str,
    amount_micro: int,
    currency: str,
    idempotency_key: str,
    note: str,
    at_ms: int,
    who: str,
    purse: Purse = "topped_up",
) -> int:
    """A correction, up or down, that no money has moved for: a charge taken back, a grant expired.

    Raises: NoBalance when granted money would fall below 0 (paid money may); else as `top_up`.
    """
    return _transfer(
        db,
        Transfer(
            "adjust", tenant_id, amount_micro, currency, idempotency_key, note, at_ms, who, purse
        ),
    )


def balances(db: Database, tenant_id: str) -> list[Balance]:
    """What the tenant has, by currency; nothing where it never had any."""
    accounts = (f"tenant/{tenant_id}/granted", topped_up(tenant_id), f"tenant/{tenant_id}/held")
    rows = cast(
        list[tuple[str, str, int]],
        db.rows(
            "SELECT currency, account, micro FROM balances WHERE account IN (?, ?, ?) "
            "ORDER BY currency",
            accounts,
        ),
    )
    found: dict[str, dict[str, int]] = {}
    for currency, account, micro in rows:
        found.setdefault(currency, {})[account] = micro
    return [
        Balance(
            currency=currency,
            granted_micro=on.get(accounts[0], 0),
            topped_up_micro=on.get(accounts[1], 0),
            held_micro=on.get(accounts[2], 0),
        )
        for currency, on in found.items()
    ]


def transfer_of(db: Database, sequence: int) -> Transfer:
    """The one that was written as this entry."""
    [(detail,)] = db.rows("SELECT detail FROM entries WHERE sequence = ?", (sequence,))
    return msgspec.json.decode(str(detail), type=Transfer)


def _transfer(db: Database, transfer: Transfer) -> int:
    tenant_id, currency, amount = transfer.tenant_id, transfer.currency, transfer.amount_micro
    if currency not in CURRENCIES:
        raise AmountRefused(f"the currency {currency[:16]!r} is none of {', '.join(CURRENCIES)}")
    if not amount or abs(amount) > MAX_MICRO:
        raise AmountRefused(
            f"the amount of {amount} micro-{currency} is 0 or beyond the limit of {MAX_MICRO}"
        )
    scope, body = transfer_key(transfer)
    first = first_with_key(db, scope, transfer.idempotency_key, body)
    if first is not None:
        return first
    if transfer.kind == "refund":
        check_available(db, tenant_id, currency, -amount)
    account = _account(transfer)
    if amount < 0 and (transfer.kind == "refund" or transfer.purse == "granted"):
        there = account_balances(db, (account,), currency)[account]
        if there < -amount:
            raise NoBalance(-amount, there, currency)
    sequence = append(db, transfer_entry(transfer))
    remember_key(db, scope, transfer.idempotency_key, body, sequence)
    return sequence


def transfer_entry(transfer: Transfer) -> Entry:
    other_side = OTHER_SIDE[transfer.kind]
    return Entry(
        transfer.kind,
        transfer.at_ms,
        transfer.tenant_id,
        "",
        transfer,
        (
            Posting(_account(transfer), transfer.currency, transfer.amount_micro),
            Posting(other_side, transfer.currency, -transfer.amount_micro),
        ),
    )


def transfer_key(transfer: Transfer) -> tuple[str, str]:
    """The scope of its idempotency key, and what that key means in it."""
    body = f"{transfer.kind} {transfer.amount_micro} {transfer.currency} {transfer.purse}"
    return f"tenant/{transfer.tenant_id}/transfers", body


def _account(transfer: Transfer) -> str:
    purse = granted if transfer.purse == "granted" else topped_up
    return purse(transfer.tenant_id)


def _check_positive(amount_micro: int) -> None:
    if amount_micro <= 0:
        raise AmountRefused(f"the amount is {amount_micro} micro-units; it has to be above 0")
