"""The ledger, all of it in one place: append-only, double entry, chained by hashes.

Functions here write inside a transaction of the caller's (a `Writer`'s work is one) and read
anywhere.  They know no clock: instants are UTC milliseconds that they are given.

    granted + topped_up - held      is what a tenant has left (plus its credit)
    reserve -> settle               what a request may come to is held, then charged exactly once
    accept / expire_results         an answer paid for by result
    top_up, grant, refund, adjust   money without a request
    use_tariff                      the price list from now on; every one is kept
"""

from __future__ import annotations

from tribody.billing.records import (
    AlreadyReserved,
    AmountRefused,
    Balance,
    CapReached,
    Charge,
    IdempotencyConflict,
    NoBalance,
    Reservation,
    UnknownRequest,
)
from tribody.billing.replay import ReplayRow, replay
from tribody.billing.reservations import open_reservations, reserve, state_of
from tribody.billing.results import Decided, accept, expire_results
from tribody.billing.settlement import record, recover, settle
from tribody.billing.statements import Statement, statement
from tribody.billing.tariff_store import current_tariff, stored_tariff, use_tariff
from tribody.billing.transfers import adjust, balances, grant, refund, top_up
from tribody.billing.usage import Chosen, serving_times, usage_records, usage_rows
from tribody.billing.verify import Report, verify

__all__ = [
    "AlreadyReserved",
    "AmountRefused",
    "Balance",
    "CapReached",
    "Charge",
    "Chosen",
    "Decided",
    "IdempotencyConflict",
    "NoBalance",
    "ReplayRow",
    "Report",
    "Reservation",
    "Statement",
    "UnknownRequest",
    "accept",
    "adjust",
    "balances",
    "current_tariff",
    "expire_results",
    "grant",
    "open_reservations",
    "record",
    "recover",
    "refund",
    "replay",
    "reserve",
    "serving_times",
    "settle",
    "state_of",
    "statement",
    "stored_tariff",
    "top_up",
    "usage_records",
    "usage_rows",
    "use_tariff",
    "verify",
]
