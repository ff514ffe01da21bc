"""Tenants, users and keys over the admin API: what is right, what is wrong, and what is kept."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.server.admin.admin_server import NOW_MS, AdminServer, code_of
from tribody.tenancy import keys as api_keys
from tribody.tenancy.directory import Denial
from tribody.tenancy.records import LAST_MS, MAX_AMOUNT

NO_LIMITS = {
    "concurrency": 0,
    "requests_per_minute": 0,
    "tokens_per_minute": 0,
    "tokens_per_day": 0,
    "tokens_per_month": 0,
    "money_per_day": "0.00",
    "money_per_month": "0.00",
}


@pytest.fixture
def tenant(http: httpx2.Client, request: pytest.FixtureRequest) -> str:
    """One of the test's own."""
    name = f"t-{abs(hash(request.node.nodeid)) % 10**12}"
    assert http.post("/admin/tenants", json={"id": name}).status_code == 200
    return name


def test_a_tenant_comes_back_as_it_was_made(http: httpx2.Client) -> None:
    limits = {"concurrency": 3, "tokens_per_day": MAX_AMOUNT, "money_per_month": "12.345678"}
    given = {
        "id": "whole",
        "name": "Büro 一号",
        "currency": "USD",
        "weight": 1000,
        "slo": "background",
        "limits": limits,
        "credit": "1000000000.00",
        "is_paused": True,
        "api": "profile=2025 errors=openai",
    }
    made = http.post("/admin/tenants", json=given)
    assert made.status_code == 200
    shown = given | {"limits": NO_LIMITS | limits, "created_ms": NOW_MS}
    assert made.json() == shown
    assert http.get("/admin/tenants/whole").json() == shown
    assert shown in http.get("/admin/tenants").json()["data"]
    assert http.head("/admin/tenants/whole").status_code == 200


BAD_TENANTS: list[tuple[dict[str, Any], int, str | None]] = [
    ({}, 400, "id"),
    ({"id": None}, 400, "id"),
    ({"id": 7}, 400, "id"),
    ({"id": ""}, 400, None),
    ({"id": "A"}, 400, None),
    ({"id": "-a"}, 400, None),
    ({"id": "a" * 64}, 400, None),
    ({"id": "a\n"}, 400, None),
    ({"id": "../a"}, 400, None),
    ({"id": "x", "name": "n" * 129}, 400, None),
    ({"id": "x", "name": "a\nb"}, 400, None),
    ({"id": "x", "name": "a\u0000b"}, 400, None),
    ({"id": "x", "currency": "EUR"}, 400, "currency"),
    ({"id": "x", "currency": None}, 400, "currency"),
    ({"id": "x", "weight": 0}, 400, None),
    ({"id": "x", "weight": 1001}, 400, None),
    ({"id": "x", "weight": 1.5}, 400, "weight"),
    ({"id": "x", "weight": "1"}, 400, "weight"),
    ({"id": "x", "weight": 10**30}, 400, None),
    ({"id": "x", "slo": "gold"}, 400, "slo"),
    ({"id": "x", "limits": {"concurrency": -1}}, 400, None),
    ({"id": "x", "limits": {"concurrency": MAX_AMOUNT + 1}}, 400, None),
    ({"id": "x", "limits": {"concurency": 1}}, 400, "limits.concurency"),
    ({"id": "x", "limits": []}, 400, "limits"),
    ({"id": "x", "limits": {"money_per_day": 5}}, 400, "limits.money_per_day"),
    ({"id": "x", "limits": {"money_per_day": "-1"}}, 400, "limits.money_per_day"),
    ({"id": "x", "limits": {"money_per_day": "1000000000.000001"}}, 400, "limits.money_per_day"),
    ({"id": "x", "limits": {"micro_per_day": 5}}, 400, "limits.micro_per_day"),
    ({"id": "x", "credit": "1e3"}, 400, "credit"),
    ({"id": "x", "credit": ""}, 400, "credit"),
    ({"id": "x", "is_paused": "yes"}, 400, "is_paused"),
    ({"id": "x", "api": "profile=1999"}, 400, None),
    ({"id": "x", "api": "max_concurrency=3"}, 400, None),
    ({"id": "x", "digest": "y"}, 400, "digest"),
]


@pytest.mark.parametrize(("given", "status", "param"), BAD_TENANTS)
def test_bad_tenants(
    http: httpx2.Client, given: dict[str, Any], status: int, param: str | None
) -> None:
    answer = http.post("/admin/tenants", json=given)
    assert code_of(answer)[::2] == (status, param)
    assert http.get("/admin/tenants/x").status_code == 404


def test_an_id_is_taken_once(http: httpx2.Client, tenant: str) -> None:
    again = http.post("/admin/tenants", json={"id": tenant, "name": "another"})
    assert code_of(again) == (409, "already_exists", "id")
    assert http.get(f"/admin/tenants/{tenant}").json()["name"] == ""
    http.post(f"/admin/tenants/{tenant}/users", json={"id": "bob"})
    again = http.post(f"/admin/tenants/{tenant}/users", json={"id": "bob"})
    assert code_of(again) == (409, "already_exists", "id")


def test_changes_leave_the_rest_as_it_is(http: httpx2.Client, tenant: str) -> None:
    path = f"/admin/tenants/{tenant}"
    first = http.patch(path, json={"limits": {"concurrency": 2, "money_per_day": "1"}}).json()
    assert first["limits"] == NO_LIMITS | {"concurrency": 2, "money_per_day": "1.00"}
    second = http.patch(path, json={"limits": {"concurrency": 0}, "is_paused": True}).json()
    assert second["limits"] == NO_LIMITS | {"money_per_day": "1.00"}
    assert second["is_paused"] is True
    assert http.patch(path, json={}).json() == second
    assert code_of(http.patch(path, json={"currency": "USD"})) == (
        400,
        "invalid_request_error",
        "currency",
    )
    for bad in ({"weight": 0}, {"weight": None}, {"credit": "x"}, {"id": "other"}, {"limits": 1}):
        assert http.patch(path, json=bad).status_code == 400, bad
    assert http.get(path).json() == second


def test_users_are_their_tenants(http: httpx2.Client, tenant: str) -> None:
    path = f"/admin/tenants/{tenant}/users"
    shown = {"id": "eve", "tenant_id": tenant, "name": "Eve", "created_ms": NOW_MS}
    assert http.post(path, json={"id": "eve", "name": "Eve"}).json() == shown
    assert http.get(path).json() == {"data": [shown], "has_more": False}
    for bad in (
        {"id": "Eve"},
        {"id": "x", "name": 1},
        {"name": "x"},
        {"id": "y", "tenant_id": "z"},
    ):
        assert http.post(path, json=bad).status_code == 400, bad
    assert len(http.get(path).json()["data"]) == 1


@pytest.mark.parametrize("name", ["nobody", "A", "a b", "%00", "%ff", "é", "a" * 64, "..%2f", "'"])
def test_what_is_not_there(http: httpx2.Client, name: str) -> None:
    for method, path in [
        ("GET", f"/admin/tenants/{name}"),
        ("PATCH", f"/admin/tenants/{name}"),
        ("GET", f"/admin/tenants/{name}/users"),
        ("GET", f"/admin/tenants/{name}/balance"),
        ("GET", f"/admin/tenants/{name}/statement"),
        ("GET", f"/admin/keys/{name}"),
        ("PATCH", f"/admin/keys/{name}"),
        ("POST", f"/admin/keys/{name}/revoke"),
        ("GET", f"/admin/tariff/history/{name}"),
        ("GET", f"/admin/ledger/verifications/{name}"),
    ]:
        answer = http.request(method, path, json={} if method == "PATCH" else None)
        assert answer.status_code == 404, (method, path)
    body = {"id": "u", "amount": "1"}
    assert http.post(f"/admin/tenants/{name}/users", json={"id": "u"}).status_code == 404
    paid = http.post(
        f"/admin/tenants/{name}/top-ups", json={"amount": "1"}, headers={"Idempotency-Key": "k"}
    )
    assert paid.status_code == 404, body


# --- keys ------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_opens_the_door(
    http: httpx2.Client, server: AdminServer, tenant: str
) -> None:
    http.post(f"/admin/tenants/{tenant}/users", json={"id": "bob"})
    given = {
        "tenant_id": tenant,
        "user_id": "bob",
        "name": "laptop",
        "expires_ms": NOW_MS + 1000,
        "models": ["mini-r1"],
        "routes": ["models", "chat"],
        "limits": {"requests_per_minute": 9},
        "api": "errors=openai",
    }
    made = http.post("/admin/keys", json=given).json()
    plain = made.pop("key")
    assert plain.startswith("sk-")
    assert len(plain) == 46
    path = f"/admin/keys/{made['id']}"
    shown = http.get(path).json()
    assert shown == made
    assert shown == given | {
        "id": made["id"],
        "shown": f"sk-…{plain[-4:]}",
        "created_ms": NOW_MS,
        "revoked_ms": None,
        "is_paused": False,
        "routes": ["chat", "models"],
        "limits": NO_LIMITS | {"requests_per_minute": 9},
    }
    listed = http.get("/admin/keys", params={"tenant_id": tenant})
    assert listed.json() == {"data": [shown], "has_more": False}
    for text in (listed.text, http.get("/admin/keys").text, http.get(path).text):
        assert plain not in text
        assert api_keys.digest(server.secret, plain.encode()).hex() not in text

    def found(at_ms: int = NOW_MS) -> object:
        server.directory.poll()
        return server.directory.find(plain.encode(), at_ms)

    principal = found()
    assert not isinstance(principal, Denial)
    assert principal.tenant_id == tenant  # type: ignore[attr-defined]
    assert found(NOW_MS + 1000) is Denial.EXPIRED
    http.patch(path, json={"is_paused": True})
    assert found() is Denial.PAUSED
    changed = http.patch(path, json={"is_paused": False, "routes": None, "expires_ms": None})
    assert changed.json()["routes"] is None
    assert changed.json()["models"] == ["mini-r1"]
    assert found(LAST_MS) == found()
    first = http.post(f"{path}/revoke").json()
    assert first["revoked_ms"] == NOW_MS
    assert found() is Denial.REVOKED
    assert http.post(f"{path}/revoke").json() == first
    assert http.patch(path, json={"is_paused": False}).status_code == 400


BAD_KEYS: list[tuple[dict[str, Any], int]] = [
    ({"tenant_id": None}, 400),
    ({"tenant_id": "Nobody"}, 400),
    ({"tenant_id": "nobody"}, 404),
    ({"user_id": "nobody"}, 404),
    ({"user_id": "No Body"}, 400),
    ({"user_id": None}, 400),
    ({"expires_ms": NOW_MS}, 400),
    ({"expires_ms": -1}, 400),
    ({"expires_ms": LAST_MS + 1}, 400),
    ({"expires_ms": "2027-01-01"}, 400),
    ({"models": []}, 400),
    ({"models": [""]}, 400),
    ({"models": ["x" * 257]}, 400),
    ({"models": [f"m{number}" for number in range(257)]}, 400),
    ({"models": "mini-r1"}, 400),
    ({"routes": []}, 400),
    ({"routes": ["admin"]}, 400),
    ({"limits": {"money_per_month": "0.0000001"}}, 400),
    ({"api": "x" * 257}, 400),
    ({"key": "sk-mine"}, 400),
    ({"digest": "00"}, 400),
    ({"id": "mine"}, 400),
]


@pytest.mark.parametrize(("wrong", "status"), BAD_KEYS)
def test_bad_keys(http: httpx2.Client, tenant: str, wrong: dict[str, Any], status: int) -> None:
    answer = http.post("/admin/keys", json={"tenant_id": tenant} | wrong)
    assert code_of(answer)[0] == status
    assert http.get("/admin/keys", params={"tenant_id": tenant}).json()["data"] == []


def test_pages_of_keys(http: httpx2.Client, tenant: str) -> None:
    made = [http.post("/admin/keys", json={"tenant_id": tenant}).json()["id"] for _ in range(5)]
    whole = [k["id"] for k in http.get(f"/admin/keys?tenant_id={tenant}").json()["data"]]
    assert sorted(whole) == sorted(made)
    seen: list[str] = []
    after = ""
    while True:
        answer = http.get(f"/admin/keys?tenant_id={tenant}&limit=2{after}").json()
        seen += [key["id"] for key in answer["data"]]
        if not answer["has_more"]:
            break
        after = f"&after={seen[-1]}"
    assert seen == whole
    for query, status in [
        ("limit=0", 400),
        ("limit=1001", 400),
        ("limit=x", 400),
        ("limit=1&limit=2", 400),
        ("limit=", 400),
        (f"limit={'9' * 5000}", 400),
        ("after=nobody", 404),
        ("after=null", 404),
        ("tenant_id=nobody", 404),
        ("tenant_id=%27%20OR%201=1", 404),
        ("teant_id=x", 400),
    ]:
        assert http.get(f"/admin/keys?{query}").status_code == status, query


def test_what_was_changed_is_kept_and_holds_no_key(
    http: httpx2.Client, server: AdminServer, tenant: str
) -> None:
    plain = http.post("/admin/keys", json={"tenant_id": tenant}).json()["key"]
    kept = server.writer.submit(lambda db: db.rows("SELECT * FROM changes")).result()
    assert any(tenant in str(row) and "admin-api" in str(row) for row in kept)
    assert plain not in str(kept)
