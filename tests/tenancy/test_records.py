"""What may stand in a record: each bound from both sides, and words that help."""

from __future__ import annotations

from typing import Any

import pytest

from tribody.core.errors import BadConfig
from tribody.core.principal import Limits
from tribody.tenancy.records import (
    LAST_MS,
    MAX_AMOUNT,
    MAX_CREDIT,
    ROUTES,
    NewKey,
    Tenant,
    User,
    check_author,
    check_key,
    check_tenant,
    check_user,
)

LONG = "x" * 128

GOOD_IDS = ["a", "0", "a-", "acme-2", "x" * 63]
BAD_IDS = ["", "-a", "A", "a_b", "a b", "x" * 64, "ä", "a\n", "a/b", "..", "٣"]

GOOD_TENANTS: list[dict[str, Any]] = [
    {},
    {"name": LONG},
    {"name": "深度求索 Ltd."},
    {"currency": "USD"},
    {"weight": 1},
    {"weight": 1000},
    {"slo": "background"},
    {"credit_micro": MAX_CREDIT},
    {"api": "profile=2025 errors=openai"},
    {"api": "usage=openai" + " " * 244},
    {"limits": Limits(concurrency=MAX_AMOUNT, micro_per_month=MAX_AMOUNT)},
]
BAD_TENANTS: list[tuple[dict[str, Any], str]] = [
    ({"name": LONG + "x"}, "name has 129 characters; at most 128 are allowed"),
    ({"name": "a\nb"}, r"name is 'a\\nb'; leave out line breaks"),
    ({"name": "\u202e"}, "leave out line breaks"),
    ({"currency": "EUR"}, "currency is 'EUR'; choose one of CNY, USD"),
    ({"weight": 0}, "weight is 0; it must be a whole number from 1 to 1000"),
    ({"weight": 1001}, "weight is 1001; it must be a whole number from 1 to 1000"),
    ({"slo": "urgent"}, "slo is 'urgent'; choose one of interactive, background"),
    ({"slo": "u" * 999}, f"slo is '{'u' * 80}'; choose"),
    ({"credit_micro": -1}, "credit_micro is -1; it must be a whole number from 0 to"),
    ({"credit_micro": MAX_CREDIT + 1}, "it must be a whole number from 0 to 1000000000000000"),
    ({"api": "profile=1999"}, "api is 'profile=1999': Invalid enum value"),
    ({"api": "max_concurrency=3"}, "say limits.concurrency in place of max_concurrency"),
    ({"api": "usage=openai" + " " * 245}, "api has 257 characters; at most 256"),
    ({"api": "usage=openai\n"}, "api is .*leave out line breaks"),
    *(
        ({"limits": Limits(**{name: value})}, rf"limits\.{name} is {value}; it must be a whole")
        for name in Limits.__struct_fields__
        for value in (-1, MAX_AMOUNT + 1)
    ),
]

GOOD_KEYS: list[dict[str, Any]] = [
    {},
    {"user_id": "ann"},
    {"name": LONG},
    {"expires_ms": 0},
    {"expires_ms": LAST_MS},
    {"models": frozenset({"m" * 256})},
    {"models": frozenset(map(str, range(256)))},
    *({"routes": frozenset({route})} for route in sorted(ROUTES)),
    {"limits": Limits(tokens_per_day=MAX_AMOUNT)},
    {"api": "sampling=openai"},
]
BAD_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"user_id": "Ann"}, "the user id 'Ann' is not"),
    ({"name": LONG + "x"}, "name has 129"),
    ({"expires_ms": -1}, "expires_ms is -1; it must be a whole number from 0 to"),
    ({"expires_ms": LAST_MS + 1}, f"whole number from 0 to {LAST_MS}"),
    ({"models": frozenset()}, "models is empty, so that the key could use nothing; name some"),
    ({"models": frozenset({""})}, "models holds an empty name; leave it out"),
    ({"models": frozenset({"m" * 257})}, "a name in models has 257 characters; at most 256"),
    ({"models": frozenset({"m\x1b[0m"})}, "a name in models is .*leave out line breaks"),
    ({"models": frozenset(map(str, range(257)))}, "models has 257 names; at most 256"),
    ({"routes": frozenset()}, "routes is empty, so that"),
    ({"routes": frozenset({"chat", "admin"})}, "routes is 'admin'; choose one of balance, batch"),
    ({"limits": Limits(requests_per_minute=-1)}, r"limits\.requests_per_minute is -1"),
    ({"api": "nonsense"}, "api is 'nonsense': 'nonsense' is not OPTION=VALUE"),
]


def test_good_ids() -> None:
    for good in GOOD_IDS:
        check_tenant(Tenant(id=good))
        check_user(User(id=good, tenant_id=good))
        check_key(NewKey(tenant_id=good))


@pytest.mark.parametrize("bad", BAD_IDS)
def test_bad_ids(bad: str) -> None:
    with pytest.raises(BadConfig, match=r"the tenant id .* is not 1 to 63 of a-z, 0-9 and '-'"):
        check_tenant(Tenant(id=bad))
    with pytest.raises(BadConfig, match="the user id"):
        check_user(User(id=bad, tenant_id="acme"))
    with pytest.raises(BadConfig, match="the tenant id"):
        check_user(User(id="ann", tenant_id=bad))
    with pytest.raises(BadConfig, match="the tenant id"):
        check_key(NewKey(tenant_id=bad))


def test_a_long_id_is_shown_in_part() -> None:
    with pytest.raises(BadConfig) as caught:
        check_tenant(Tenant(id="y" * 500))
    assert "y" * 80 in str(caught.value)
    assert "y" * 81 not in str(caught.value)


@pytest.mark.parametrize("fields", GOOD_TENANTS, ids=str)
def test_good_tenants(fields: dict[str, Any]) -> None:
    check_tenant(Tenant(id="acme", **fields))


@pytest.mark.parametrize(("fields", "words"), BAD_TENANTS)
def test_bad_tenants(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        check_tenant(Tenant(id="acme", **fields))


@pytest.mark.parametrize("fields", GOOD_KEYS)
def test_good_keys(fields: dict[str, Any]) -> None:
    check_key(NewKey(tenant_id="acme", **fields))


@pytest.mark.parametrize(("fields", "words"), BAD_KEYS)
def test_bad_keys(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        check_key(NewKey(tenant_id="acme", **fields))


def test_users_and_authors() -> None:
    check_user(User(id="ann", tenant_id="acme", name=LONG))
    with pytest.raises(BadConfig, match="name has 129"):
        check_user(User(id="ann", tenant_id="acme", name=LONG + "x"))
    check_author(LONG, 0)
    check_author("cli", LAST_MS)
    with pytest.raises(BadConfig, match="who has 129"):
        check_author(LONG + "x", 0)
    with pytest.raises(BadConfig, match=r"who is '\\x00'"):
        check_author("\0", 0)
    with pytest.raises(BadConfig, match="who makes the change must be said"):
        check_author("", 0)
    for at_ms in (-1, LAST_MS + 1):
        with pytest.raises(BadConfig, match="at_ms is"):
            check_author("cli", at_ms)
