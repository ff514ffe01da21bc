"""/admin/tenants/{tenant_id}/…: what a tenant has, and money that comes and goes without a request.

Each movement has an Idempotency-Key: sent again with the same body it has no second effect and is
answered with the first one's entry.
"""

from __future__ import annotations

import re
from typing import Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.billing import ledger
from tribody.billing.records import Balance
from tribody.billing.transfers import transfer_of
from tribody.core.errors import BadRequest
from tribody.server.admin.amounts import amount_text, micro_of
from tribody.server.admin.state import WHO, answered, body_of, state_of
from tribody.server.admin.tenants import tenant_of
from tribody.server.admin.types import (
    AdjustmentGiven,
    BalanceList,
    BalanceShown,
    TransferGiven,
    TransferShown,
)
from tribody.storage.database import Database
from tribody.tenancy import store
from tribody.tenancy.records import Tenant

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")  # visible ASCII


async def show_balance(http: HttpRequest) -> Response:
    """GET: what a tenant has, by currency; its own is always there."""
    tenant_id = tenant_of(http)

    def find(db: Database) -> list[BalanceShown]:
        return _balances(db, store.find_tenant(db, tenant_id))

    shown = await state_of(http).read(find)
    return answered(BalanceList(tenant_id=tenant_id, data=shown))


async def top_up(http: HttpRequest) -> Response:
    """POST: the tenant has paid."""
    return await _transfer(http, ledger.top_up)


async def grant(http: HttpRequest) -> Response:
    """POST: a gift."""
    return await _transfer(http, ledger.grant)


async def refund(http: HttpRequest) -> Response:
    """POST: what was paid is paid back."""
    return await _transfer(http, ledger.refund)


async def adjust(http: HttpRequest) -> Response:
    """POST: a correction that no money has moved for."""
    state, tenant_id, key = state_of(http), tenant_of(http), idempotency_key(http)
    given = await body_of(http, AdjustmentGiven)
    micro = micro_of("amount", given.amount, signed=True)
    at_ms = state.now_ms()

    def work(db: Database) -> TransferShown:
        tenant = store.find_tenant(db, tenant_id)
        currency = given.currency or tenant.currency
        sequence = ledger.adjust(
            db, tenant_id, micro, currency, key, given.note, at_ms, WHO, given.balance
        )
        return _shown(db, tenant, sequence)

    return answered(await state.write(work))


class _Movement(Protocol):
    """`ledger.top_up` and its like."""

    def __call__(
        self,
        db: Database,
        tenant_id: str,
        amount_micro: int,
        currency: str,
        idempotency_key: str,
        note: str,
        at_ms: int,
        who: str,
    ) -> int: ...


async def _transfer(http: HttpRequest, move: _Movement) -> Response:
    state, tenant_id, key = state_of(http), tenant_of(http), idempotency_key(http)
    given = await body_of(http, TransferGiven)
    micro = micro_of("amount", given.amount)
    at_ms = state.now_ms()

    def work(db: Database) -> TransferShown:
        tenant = store.find_tenant(db, tenant_id)
        currency = given.currency or tenant.currency
        sequence = move(db, tenant_id, micro, currency, key, given.note, at_ms, WHO)
        return _shown(db, tenant, sequence)

    return answered(await state.write(work))


def idempotency_key(http: HttpRequest) -> str:
    """Raises: BadRequest unless there is exactly one, of visible ASCII characters."""
    given = http.headers.getlist("idempotency-key")
    if len(given) != 1 or not IDEMPOTENCY_KEY.fullmatch(given[0]):
        raise BadRequest(
            "Send one header Idempotency-Key of 1 to 255 visible ASCII characters: drawn for this "
            "movement of money, and the same when it is sent again.",
            param="Idempotency-Key",
            code="idempotency_key_missing",
        )
    return given[0]


def _shown(db: Database, tenant: Tenant, sequence: int) -> TransferShown:
    """From the entry itself, which may be an earlier one."""
    transfer = transfer_of(db, sequence)
    return TransferShown(
        sequence=sequence,
        kind=transfer.kind,
        tenant_id=transfer.tenant_id,
        amount=amount_text(transfer.amount_micro),
        currency=transfer.currency,
        balance=transfer.purse,
        note=transfer.note,
        at_ms=transfer.at_ms,
        who=transfer.who,
        balances=_balances(db, tenant),
    )


def _balances(db: Database, tenant: Tenant) -> list[BalanceShown]:
    found = ledger.balances(db, tenant.id)
    if all(one.currency != tenant.currency for one in found):
        found = [Balance(currency=tenant.currency), *found]
    return [shown_balance(one) for one in found]


def shown_balance(balance: Balance) -> BalanceShown:
    return BalanceShown(
        currency=balance.currency,
        total=amount_text(balance.granted_micro + balance.topped_up_micro),
        granted=amount_text(balance.granted_micro),
        topped_up=amount_text(balance.topped_up_micro),
        held=amount_text(balance.held_micro),
        available=amount_text(balance.available_micro),
    )
