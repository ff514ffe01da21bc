"""What the tests of the ledger are made of: prices, requests, a database in memory."""

from __future__ import annotations

from typing import Any

import msgspec

from tribody.billing import ledger
from tribody.billing.pricing import Allowance, Quote
from tribody.billing.records import Reservation
from tribody.core.metering import Counts, UsageRecord
from tribody.storage.database import Database
from tribody.storage.opening import open_database

YUAN = 1_000_000
NOON_MS = 1_763_956_800_000  # 2025-11-24 12:00 in Shanghai, a Monday
QUOTE = Quote(
    tariff_digest="d" * 64,
    rule_id="r1",
    currency="CNY",
    at_ms=NOON_MS,
    hit=1 * YUAN,
    miss=4 * YUAN,
    output=16 * YUAN,
)
COUNTS = Counts(prompt_tokens=1000, cached_tokens=600, completion_tokens=100, reasoning_tokens=40)
COST = 600 * 1 + 400 * 4 + 100 * 16  # of COUNTS by QUOTE


def quote(**changes: Any) -> Quote:
    return msgspec.structs.replace(QUOTE, **changes)


def reservation(request_id: str = "one", **changes: Any) -> Reservation:
    plain = Reservation(
        request_id=request_id,
        node_id="node",
        tenant_id="acme",
        user_id="ann",
        key_id="key-1",
        model="r1",
        route="chat",
        streamed=True,
        at_ms=NOON_MS,
        quote=QUOTE,
        worst_micro=5000,
        worst_tokens=1200,
    )
    return msgspec.structs.replace(plain, **changes)


def usage(request_id: str = "one", **changes: Any) -> UsageRecord:
    plain = UsageRecord(
        request_id=request_id,
        tenant_id="local",
        user_id="",
        key_id="none",
        model="r1",
        route="chat",
        streamed=False,
        is_batch=False,
        started_ms=NOON_MS,
        ended_ms=NOON_MS + 5000,
        counts=COUNTS,
        outcome="finished",
    )
    return msgspec.structs.replace(plain, **changes)


def allowance(**amounts: int) -> Allowance:
    return Allowance(allowance_id="welcome", period="2025-11", **amounts)


def database() -> Database:
    return open_database(":memory:")


def give(
    db: Database, granted: int = 0, topped_up: int = 0, *, tenant: str = "acme", key: str = "first"
) -> None:
    """Money in both purses."""
    with db.transaction():
        if granted:
            ledger.grant(db, tenant, granted, "CNY", f"{key} grant", "hello", NOON_MS, "test")
        if topped_up:
            ledger.top_up(db, tenant, topped_up, "CNY", f"{key} money", "wire", NOON_MS, "test")


def money(db: Database, tenant: str = "acme") -> tuple[int, int, int]:
    """(granted, topped up, held) in yuan's micro-units."""
    for balance in ledger.balances(db, tenant):
        if balance.currency == "CNY":
            return balance.granted_micro, balance.topped_up_micro, balance.held_micro
    return 0, 0, 0
