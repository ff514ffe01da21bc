"""What no route takes: bodies that are no JSON, too large, too deep or of the wrong kind; and what
/openapi.json says of all that."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2
import pytest

from tests.server.admin.admin_server import AdminServer, code_of
from tribody.billing.entries import chain_end
from tribody.server.admin.routes import LABELS, ROUTES
from tribody.server.admin.state import MAX_BODY_BYTES

WITH_BODY = [route for route in ROUTES if route.request is not None]
NO_TRACE = re.compile(r"Traceback|File \"|/src/|\.py\b|0x[0-9a-f]{6}|sqlite|apsw|SELECT", re.I)

BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "blank": b" \n",
    "no JSON": b"id=acme",
    "cut off": b'{"id": "x"',
    "two": b"{} {}",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"x"',
    "a number": b"1",
    "no UTF-8": b'{"id": "\xff\xfe"}',
    "UTF-16": '{"id": "x"}'.encode("utf-16"),
    "half a character": b'{"id": "\\ud800", "amount": "\\ud800", "text": "\\ud800", "name": 1}',
    "NaN": b'{"weight": NaN}',
    "too deep": b'{"id": ' + b"[" * 100_000,
    "deep": b'{"limits": ' + b'{"limits": ' * 5_000 + b"1" + b"}" * 5_001,
    "unknown": b'{"\\u0000": 1}',
    "prototype": b'{"__proto__": {}, "constructor": {}}',
    "a large number": b'{"weight": ' + b"9" * 100_000 + b"}",
    "too large": b'{"text": "' + b"x" * MAX_BODY_BYTES + b'"}',
}


def path_of(path: str) -> str:
    return re.sub(r"\{\w+\}", "acme", path)


@pytest.fixture(scope="module")
def acme(server: AdminServer) -> str:
    with server.client() as http:
        assert http.post("/admin/tenants", json={"id": "acme"}).status_code == 200
    return "acme"


def state(server: AdminServer) -> object:
    return server.writer.submit(
        lambda db: (chain_end(db), db.rows("SELECT * FROM revision"))
    ).result()


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_change_nothing(
    server: AdminServer, http: httpx2.Client, acme: str, name: str
) -> None:
    body = BAD_BODIES[name]
    before = state(server)
    for route in WITH_BODY:
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        answer = http.request(route.method, path_of(route.paths[0]), content=body, headers=headers)
        if answer.status_code == 404 and "{key_id}" in route.paths[0]:
            continue
        assert code_of(answer)[0] == (413 if name == "too large" else 400), (route, answer.text)
        assert not NO_TRACE.search(answer.text)
        assert len(answer.content) < 2_000
    assert state(server) == before


def test_a_body_of_the_size_that_is_allowed(http: httpx2.Client) -> None:
    """It is read, and refused for what it says."""
    text = "x" * (MAX_BODY_BYTES - len(b'{"text": ""}'))
    body = json.dumps({"text": text}).encode()
    assert len(body) == MAX_BODY_BYTES
    assert code_of(http.post("/admin/tariff/check", content=body))[:2] == (400, "bad_tariff")
    assert http.post("/admin/tariff/check", content=body + b" ").status_code == 413


def test_wrong_methods(http: httpx2.Client) -> None:
    by_path: dict[str, set[str]] = {}
    for route in ROUTES:
        by_path.setdefault(path_of(route.paths[0]), set()).add(route.method)
    for path, methods in by_path.items():
        allowed = methods | ({"HEAD"} if "GET" in methods else set())
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allowed:
            answer = http.request(method, path)
            assert answer.status_code == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) == allowed


# --- /openapi.json ---------------------------------------------------------------------------


@pytest.fixture
def document(http: httpx2.Client) -> dict[str, Any]:
    shown: dict[str, Any] = http.get("/openapi.json").json()
    return shown


def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = {
        (path, method.upper()) for path, ways in document["paths"].items() for method in ways
    }
    assert described == {(route.paths[0], route.method) for route in ROUTES}
    for path, ways in document["paths"].items():
        for method, operation in ways.items():
            assert operation["security"] == [{"key": []}], (path, method)
            assert {"200", "400", "401", "403", "404", "413", "503"} <= set(operation["responses"])
    movement = document["paths"]["/admin/tenants/{tenant_id}/top-ups"]["post"]
    [header] = [one for one in movement["parameters"] if one["in"] == "header"]
    assert (header["name"], header["required"]) == ("Idempotency-Key", True)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert found <= set(document["components"]["schemas"])
    assert "KeyMade" in found


def test_labels_are_a_closed_set() -> None:
    assert LABELS.of("/admin/tenants/acme") == "/admin/tenants/{id}"
    assert LABELS.of("/admin/tenants/acme/top-ups") == "/admin/tenants/{id}/top-ups"
    assert LABELS.of("/admin/keys/k/revoke") == "/admin/keys/{id}/revoke"
    for path in ("/", "/admin", "/admin/tenants/", "/admin/tenants/a/b", "/x" * 1000, "/admin/\n"):
        assert LABELS.of(path) == "other"
