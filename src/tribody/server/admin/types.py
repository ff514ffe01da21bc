"""What goes in and out of the admin API about tenants, users, keys and money.

Unknown fields are refused: a misspelt limit is no limit.  Instants are UTC, in milliseconds of the
Unix epoch.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tribody.core.request import Priority
from tribody.server.admin.amounts import Amount, UnsignedAmount
from tribody.tenancy import records
from tribody.tenancy.records import Currency, Route


def _shown(**keywords: object) -> Meta:
    """What the schema says; the check is tenancy's, whose words are better."""
    return Meta(extra_json_schema=dict(keywords))


MAX_LISTED = 1_000  # in one answer
MAX_NOTE = 500  # characters

Id = Annotated[str, _shown(pattern=f"^{records.ID.pattern}$")]
IdOrNone = Annotated[str, _shown(pattern=f"^({records.ID.pattern})?$")]
Text = Annotated[str, _shown(maxLength=records.MAX_NAME)]
Options = Annotated[str, _shown(maxLength=records.MAX_API)]
Weight = Annotated[int, _shown(minimum=1, maximum=records.MAX_WEIGHT)]
Most = Annotated[int, _shown(minimum=0, maximum=records.MAX_AMOUNT)]  # 0 = no limit
Instant = Annotated[int, Meta(ge=0, le=records.LAST_MS)]
Models = Annotated[
    list[Annotated[str, _shown(minLength=1, maxLength=records.MAX_MODEL_NAME)]],
    _shown(minItems=1, maxItems=records.MAX_MODELS),
]
Routes = Annotated[list[Route], _shown(minItems=1)]
Limit = Annotated[int, Meta(ge=1, le=MAX_LISTED)]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a caller sends."""


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller gets."""


# --- limits ----------------------------------------------------------------------------------


class LimitsGiven(_Request, frozen=True, kw_only=True):
    """What is left out stays as it is; on something new it is no limit."""

    concurrency: Most | UnsetType = UNSET
    requests_per_minute: Most | UnsetType = UNSET
    tokens_per_minute: Most | UnsetType = UNSET
    tokens_per_day: Most | UnsetType = UNSET
    tokens_per_month: Most | UnsetType = UNSET
    money_per_day: UnsignedAmount | UnsetType = UNSET
    money_per_month: UnsignedAmount | UnsetType = UNSET


class LimitsShown(_Answer, frozen=True, kw_only=True):
    """0 = no limit."""

    concurrency: int
    requests_per_minute: int
    tokens_per_minute: int
    tokens_per_day: int
    tokens_per_month: int
    money_per_day: Amount
    money_per_month: Amount


# --- tenants and users -----------------------------------------------------------------------


class TenantGiven(_Request, frozen=True, kw_only=True):
    """`credit`: how far below zero the balance may fall; "0" = it is paid beforehand."""

    id: Id
    name: Text = ""
    currency: Currency = "CNY"
    weight: Weight = 1
    slo: Priority = "interactive"
    limits: LimitsGiven = LimitsGiven()
    credit: UnsignedAmount = "0"
    is_paused: bool = False
    api: Options = ""


class TenantPatch(_Request, frozen=True, kw_only=True):
    """What is left out stays as it is."""

    name: Text | UnsetType = UNSET
    weight: Weight | UnsetType = UNSET
    slo: Priority | UnsetType = UNSET
    limits: LimitsGiven = LimitsGiven()
    credit: UnsignedAmount | UnsetType = UNSET
    is_paused: bool | UnsetType = UNSET
    api: Options | UnsetType = UNSET


class TenantShown(_Answer, frozen=True, kw_only=True):
    id: str
    name: str
    currency: Currency
    weight: int
    slo: Priority
    limits: LimitsShown
    credit: Amount
    is_paused: bool
    api: str
    created_ms: int


class TenantList(_Answer, frozen=True, kw_only=True):
    data: list[TenantShown]
    has_more: bool


class UserGiven(_Request, frozen=True, kw_only=True):
    id: Id
    name: Text = ""


class UserShown(_Answer, frozen=True, kw_only=True):
    id: str
    tenant_id: str
    name: str
    created_ms: int


class UserList(_Answer, frozen=True, kw_only=True):
    data: list[UserShown]
    has_more: bool


# --- keys ------------------------------------------------------------------------------------


class KeyGiven(_Request, frozen=True, kw_only=True):
    """`models` and `routes`: all that the key may use; null or left out = everything."""

    tenant_id: Id
    user_id: IdOrNone = ""
    name: Text = ""
    expires_ms: Instant | None = None
    models: Models | None = None
    routes: Routes | None = None
    limits: LimitsGiven = LimitsGiven()
    api: Options = ""


class KeyPatch(_Request, frozen=True, kw_only=True):
    """What is left out stays as it is; null takes an end or a scope away."""

    name: Text | UnsetType = UNSET
    expires_ms: Instant | UnsetType | None = UNSET
    models: Models | UnsetType | None = UNSET
    routes: Routes | UnsetType | None = UNSET
    limits: LimitsGiven = LimitsGiven()
    is_paused: bool | UnsetType = UNSET
    api: Options | UnsetType = UNSET


class KeyShown(_Answer, frozen=True, kw_only=True):
    """`shown`: so much of the key as may be told."""

    id: str
    tenant_id: str
    user_id: str
    name: str
    shown: str
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    is_paused: bool
    models: list[str] | None
    routes: list[str] | None
    limits: LimitsShown
    api: str


class KeyMade(KeyShown, frozen=True, kw_only=True):
    """`key`: the key itself, which nothing can tell again."""

    key: str


class KeyList(_Answer, frozen=True, kw_only=True):
    data: list[KeyShown]
    has_more: bool


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    after: str | None = None
    limit: Limit = MAX_LISTED


class KeysQuery(ListQuery, frozen=True, kw_only=True):
    tenant_id: str | None = None


# --- money -----------------------------------------------------------------------------------


class TransferGiven(_Request, frozen=True, kw_only=True):
    """`currency`: the tenant's own if left out."""

    amount: UnsignedAmount
    currency: Currency | None = None
    note: Annotated[str, Meta(max_length=MAX_NOTE)] = ""


class AdjustmentGiven(_Request, frozen=True, kw_only=True):
    """An amount below 0 takes away.  `balance`: which of the two is changed."""

    amount: Amount
    currency: Currency | None = None
    note: Annotated[str, Meta(max_length=MAX_NOTE)] = ""
    balance: Literal["topped_up", "granted"] = "topped_up"


class BalanceShown(_Answer, frozen=True, kw_only=True):
    """`held`: of the total, for requests under way.  `available`: what the next may hold."""

    currency: str
    total: Amount
    granted: Amount
    topped_up: Amount
    held: Amount
    available: Amount


class BalanceList(_Answer, frozen=True, kw_only=True):
    tenant_id: str
    data: list[BalanceShown]


class TransferShown(_Answer, frozen=True, kw_only=True):
    """The entry, the same for the same Idempotency-Key, and what the tenant has now."""

    sequence: int
    kind: Literal["top_up", "grant", "refund", "adjust"]
    tenant_id: str
    amount: Amount
    currency: str
    balance: Literal["topped_up", "granted"]
    note: str
    at_ms: int
    who: str
    balances: list[BalanceShown]
