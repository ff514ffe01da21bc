"""Who there is: tenants, their users and their keys, and what may stand in such a record.

Nothing here knows where records are kept.  The checks hold for whoever makes a record, the command
line as the admin API: what has passed them is safe to log, to show and to build a principal from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from tribody.core.api_settings import DEFAULT_API, with_options
from tribody.core.errors import BadConfig
from tribody.core.principal import NO_LIMITS, Limits
from tribody.core.request import Priority

Currency = Literal["CNY", "USD"]
Route = Literal[
    "chat",
    "completions",
    "responses",
    "messages",
    "embeddings",
    "files",
    "batches",
    "tokenize",
    "models",
    "balance",
    "results",
    "metrics",
    "version",
]
ROUTES: frozenset[str] = frozenset(get_args(Route))  # the labels that a key's scope may name

ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MAX_NAME = 128  # characters
MAX_WEIGHT = 1_000
MAX_AMOUNT = 2**53 - 1  # of a limit: whole numbers up to there are exact in every JSON reader
MAX_CREDIT = 10**15  # micro-units: the ledger's limit of one amount
MAX_MODELS = 256  # in one scope
MAX_MODEL_NAME = 256  # characters, as of a request's model
MAX_API = 256  # characters of the options' text
LAST_MS = 253_402_300_799_999  # the last millisecond of the year 9999


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who pays.  `slo` is the priority of its requests, `weight` its share beside other tenants.

    `credit_micro`: how far below zero its balance may fall; 0 = it pays beforehand.  `api`: options
    as of `core.api_settings.with_options`, over the server's own.
    """

    id: str
    name: str = ""
    currency: Currency = "CNY"
    weight: int = 1
    slo: Priority = "interactive"
    limits: Limits = NO_LIMITS
    credit_micro: int = 0
    is_paused: bool = False
    api: str = ""
    created_ms: int = 0  # set when it is added


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody at a tenant, for whom keys are made.  `id` is unique within the tenant."""

    id: str
    tenant_id: str
    name: str = ""
    created_ms: int = 0  # set when it is added


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that is asked for.  `models`, `routes`: all that it may use; None = everything."""

    tenant_id: str
    user_id: str = ""  # "" = nobody's in particular
    name: str = ""
    expires_ms: int | None = None  # from then on it is denied
    models: frozenset[str] | None = None
    routes: frozenset[str] | None = None
    limits: Limits = NO_LIMITS
    api: str = ""


class Key(NewKey, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as it is kept: `digest` in hexadecimal in its place, and `shown` of it."""

    id: str
    digest: str
    shown: str
    created_ms: int
    revoked_ms: int | None = None
    is_paused: bool = False


class TenantChange(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What is to be different of a tenant; the currency of its money is not."""

    name: str | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    slo: Priority | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    credit_micro: int | UnsetType = UNSET
    is_paused: bool | UnsetType = UNSET
    api: str | UnsetType = UNSET


class KeyChange(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What is to be different of a key; to revoke it is not among it."""

    name: str | UnsetType = UNSET
    expires_ms: int | UnsetType | None = UNSET
    models: frozenset[str] | UnsetType | None = UNSET
    routes: frozenset[str] | UnsetType | None = UNSET
    limits: Limits | UnsetType = UNSET
    is_paused: bool | UnsetType = UNSET
    api: str | UnsetType = UNSET


class NotThere(BadConfig):
    """No tenant, user or key has this id."""


class AlreadyThere(BadConfig):
    """A tenant or a user has this id already."""


# --- checks: each raises BadConfig that names the value, the limit and the remedy -----------------


def check_tenant(tenant: Tenant) -> None:
    check_id("tenant", tenant.id)
    _check_text("name", tenant.name)
    _check_choice("currency", tenant.currency, get_args(Currency))
    _check_number("weight", tenant.weight, 1, MAX_WEIGHT)
    _check_choice("slo", tenant.slo, get_args(Priority))
    _check_limits(tenant.limits)
    _check_number("credit_micro", tenant.credit_micro, 0, MAX_CREDIT)
    _check_api(tenant.api)


def check_user(user: User) -> None:
    check_id("user", user.id)
    check_id("tenant", user.tenant_id)
    _check_text("name", user.name)


def check_key(key: NewKey) -> None:
    check_id("tenant", key.tenant_id)
    if key.user_id:
        check_id("user", key.user_id)
    _check_text("name", key.name)
    if key.expires_ms is not None:
        _check_number("expires_ms", key.expires_ms, 0, LAST_MS)
    if key.models is not None:
        _check_models(key.models)
    if key.routes is not None:
        _check_filled("routes", key.routes)
        for route in sorted(key.routes):
            _check_choice("routes", route, sorted(ROUTES))
    _check_limits(key.limits)
    _check_api(key.api)


def check_author(who: str, at_ms: int) -> None:
    """Who makes a change, and when."""
    _check_text("who", who)
    if not who:
        raise BadConfig("who makes the change must be said: it is kept with it")
    _check_number("at_ms", at_ms, 0, LAST_MS)


def check_id(kind: str, value: str) -> None:
    if not ID.fullmatch(value):
        raise BadConfig(
            f"the {kind} id {value[:80]!r} is not 1 to 63 of a-z, 0-9 and '-' with a letter or a "
            "digit first; choose another"
        )


def _check_text(what: str, value: str, most: int = MAX_NAME) -> None:
    if len(value) > most:
        raise BadConfig(f"{what} has {len(value)} characters; at most {most} are allowed")
    if not value.isprintable():
        raise BadConfig(
            f"{what} is {value!r}; leave out line breaks and whatever else is not printable"
        )


def _check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise BadConfig(f"{what} is {value[:80]!r}; choose one of {', '.join(choices)}")


def _check_number(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BadConfig(f"{what} is {value}; it must be a whole number from {least} to {most}")


def _check_limits(limits: Limits) -> None:
    for name in limits.__struct_fields__:
        _check_number(f"limits.{name}", getattr(limits, name), 0, MAX_AMOUNT)


def _check_filled(what: str, scope: frozenset[str]) -> None:
    if not scope:
        raise BadConfig(
            f"{what} is empty, so that the key could use nothing; name some, or pause the key"
        )


def _check_models(models: frozenset[str]) -> None:
    _check_filled("models", models)
    if len(models) > MAX_MODELS:
        raise BadConfig(f"models has {len(models)} names; at most {MAX_MODELS} are allowed")
    for name in sorted(models):
        if not name:
            raise BadConfig("models holds an empty name; leave it out")
        _check_text("a name in models", name, MAX_MODEL_NAME)


def _check_api(text: str) -> None:
    _check_text("api", text, MAX_API)
    try:
        settings = with_options(DEFAULT_API, text)
    except ValueError as error:
        raise BadConfig(f"api is {text!r}: {error}") from None
    if settings.max_concurrency != DEFAULT_API.max_concurrency:
        raise BadConfig(f"api is {text!r}: say limits.concurrency in place of max_concurrency")
