"""Who may come to the admin API: every route with every wrong token, name and path."""

from __future__ import annotations

import json
import logging
import re
import socket
import stat
from pathlib import Path

import httpx2
import pytest

from tests.server.admin.admin_server import AdminServer, code_of
from tribody.core.errors import BadConfig, BadRequest
from tribody.server.admin.routes import ROUTES
from tribody.server.admin.surface import check_host
from tribody.server.admin.token import AdminToken
from tribody.server.listening import ServeConfig, bind_admin, listen

CANARY = "canary-c0ffee-9b1f"


def path_of(path: str) -> str:
    return re.sub(r"\{\w+\}", "acme", path)


TRIED = [(route.method, path_of(route.paths[0])) for route in ROUTES] + [
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/nowhere"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/admin"),
    ("GET", "/admin/tenants/"),
    ("GET", "//admin/tenants"),
    ("GET", "/%61dmin/tenants"),
    ("GET", "/admin/../openapi.json"),
    ("GET", "/admin/tenants;x=1"),
    ("HEAD", "/admin/tenants"),
    ("OPTIONS", "/admin/tenants"),
    ("DELETE", "/admin/tenants"),
    ("TRACE", "/admin/tenants"),
    ("PURGE", "/admin/tenants"),
]


def bad_headers(token: str) -> dict[str, list[tuple[bytes, bytes]]]:
    headers: dict[str, list[tuple[str, str | bytes]]] = {
        "none": [],
        "wrong": [("Authorization", f"Bearer {token[:-1]}{'A' if token[-1] != 'A' else 'B'}")],
        "prefix": [("Authorization", f"Bearer {token[:-1]}")],
        "longer": [("Authorization", f"Bearer {token}x")],
        "empty": [("Authorization", "Bearer")],
        "no scheme": [("Authorization", token)],
        "basic": [("Authorization", f"Basic {token}")],
        "twice": [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")],
        "upper case": [("Authorization", f"Bearer {token.swapcase()}")],
        "sql": [("Authorization", "Bearer ' OR 1=1 --")],
        "long": [("Authorization", "Bearer " + "x" * 8000)],
        "not ascii": [("Authorization", "Bearer schlüssel".encode())],
        "another header": [("X-Api-Key", token)],
        "cookie": [("Cookie", f"token={token}")],
        "forwarded": [("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-Host", "127.0.0.1")],
    }
    return {
        name: [(n.encode(), v.encode() if isinstance(v, str) else v) for n, v in pairs]
        for name, pairs in headers.items()
    }


def entries_and_changes(server: AdminServer) -> tuple[object, object]:
    return server.writer.submit(
        lambda db: (db.rows("SELECT max(sequence) FROM entries"), db.rows("SELECT * FROM revision"))
    ).result()


def test_nobody_comes_in_without_the_token(server: AdminServer) -> None:
    before, refused = entries_and_changes(server), len(server.refused)
    with httpx2.Client(base_url=server.url, verify=False) as client:
        for name, headers in bad_headers(server.token).items():
            for method, path in TRIED:
                answer = client.request(method, path, headers=headers, content=b"{}")
                assert answer.status_code == 401, (name, method, path)
                assert server.token not in answer.text
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "access-control-allow-origin" not in answer.headers
    assert entries_and_changes(server) == before
    assert len(server.refused) == refused + len(TRIED) * len(bad_headers(server.token))


def test_the_token_in_the_query_is_none(server: AdminServer) -> None:
    with httpx2.Client(base_url=server.url, verify=False) as client:
        for name in ("token", "access_token", "key", "authorization"):
            answer = client.get("/admin/tenants", params={name: server.token})
            assert answer.status_code == 401


def test_a_token_of_a_megabyte_is_not_read(server: AdminServer) -> None:
    head = f"GET /admin/tenants HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {'x' * 2**20}"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        try:
            connection.sendall(head.encode())
            answer = connection.recv(100)
        except ConnectionError:
            return  # cut while it was still sent
    assert b" 431 " in answer


BAD_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "localhost@evil.example",
    "evil.example:8001",
    "0.0.0.0",
    "10.0.0.1",
    "169.254.169.254",
    "2130706433",
    "0x7f000001",
    "127.1",
    "[::2]",
    "[::1",
    "[::1]x",
    "127.0.0.1:8001:1",
    "127.0.0.1:x",
    "127.0.0.1:٣",
    "",
    "*",
    "127.0.0.1, evil.example",
    "localhost.",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_another_name_is_refused_with_the_token(server: AdminServer, host: str) -> None:
    with pytest.raises(BadRequest):
        check_host([(b"host", host.encode())])
    with server.client() as client:
        answer = client.get("/admin/tenants", headers=[(b"Host", host.encode())])
    assert code_of(answer) == (403, "host_not_allowed", None)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:1", "127.9.9.9", "localhost", "LocalHost:99", "[::1]", "[::1]:8"],
)
def test_names_of_this_machine(server: AdminServer, host: str) -> None:
    with server.client() as client:
        assert client.get("/admin/tenants", headers={"Host": host}).status_code == 200


def test_hosts_that_come_twice_or_not_at_all() -> None:
    good = (b"host", b"127.0.0.1")
    check_host([good])
    for headers in ([], [good, good], [good, (b"host", b"evil.example")]):
        with pytest.raises(BadRequest) as refused:
            check_host(headers)
        assert refused.value.status == 403


def test_a_target_with_a_name_in_it_does_not_count(server: AdminServer) -> None:
    """`GET http://127.0.0.1/…` with another Host."""
    request = (
        f"GET http://127.0.0.1/admin/tenants HTTP/1.1\r\nHost: evil.example\r\n"
        f"Authorization: Bearer {server.token}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request.encode())
        assert b" 403 " in connection.recv(100)


def test_pages_of_other_origins_get_no_leave(server: AdminServer) -> None:
    headers = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    with httpx2.Client(base_url=server.url, verify=False) as client:
        asked = client.options("/admin/tenants", headers=headers)
    assert asked.status_code == 401
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_it_listens_on_loopback_alone() -> None:
    """Whatever --host says, at the port after the public one if none is given."""
    listening = listen(ServeConfig(host="0.0.0.0", port=0, accounts=True))
    try:
        assert listening.admin is not None
        host, port = listening.admin.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(BadConfig, match=f"--admin-port {port} cannot be used"):
            bind_admin(ServeConfig(accounts=True, admin_port=port))
        with pytest.raises(BadConfig, match=f"--admin-port {port} cannot be used"):
            bind_admin(ServeConfig(accounts=True, port=port - 1))
    finally:
        listening.close()
    assert listening.admin.fileno() == -1


def test_ports_that_cannot_be() -> None:
    with pytest.raises(BadConfig, match="give --admin-port"):
        bind_admin(ServeConfig(accounts=True, port=65_535))
    with pytest.raises(BadConfig, match="with --accounts only"):
        listen(ServeConfig(port=0, admin_port=0))
    without = listen(ServeConfig(port=0))
    without.close()
    assert without.admin is None


# --- the token's file ------------------------------------------------------------------------


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "admin-token"
    made = AdminToken.read(path)
    token = path.read_bytes().removesuffix(b"\n")
    assert len(token) == 43  # 256 bits
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.is_same(token)
    assert AdminToken.read(path).is_same(token)
    assert not made.is_same(token + b"\n")
    other = tmp_path / "admin-token"
    AdminToken.read(other)
    assert other.read_bytes() != path.read_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short", b"x" * 31, b"x" * 257, b"x" * 40 + b" x", "ü".encode() * 40]
)
def test_what_is_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "admin-token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadConfig, match="remove the file"):
        AdminToken.read(path)


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    AdminToken.read(path)
    for mode in (0o640, 0o604, 0o644, 0o620):
        path.chmod(mode)
        with pytest.raises(BadConfig, match="chmod 600"):
            AdminToken.read(path)


def test_secrets_are_not_logged(server: AdminServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither tokens, right or wrong, nor keys, notes, ids or what else a request holds."""
    caplog.set_level(logging.DEBUG)
    headers = {"Idempotency-Key": CANARY}
    told = []
    with server.client() as client:
        client.post("/admin/tenants", json={"id": CANARY, "name": CANARY})
        made = client.post("/admin/keys", json={"tenant_id": CANARY, "name": CANARY})
        told.append(made.json()["key"])
        body = {"amount": "1", "note": CANARY}
        paid = client.post(f"/admin/tenants/{CANARY}/top-ups", json=body, headers=headers)
        assert paid.status_code == 200
        client.post(f"/admin/{CANARY}", content=CANARY)
        client.post("/admin/tenants", content=f'{{"{CANARY}": "{CANARY}"}}')
        client.get("/admin/usage", params={CANARY: CANARY})
        client.put("/admin/tariff", json={"text": CANARY})
        client.get("/admin/tenants", headers={"Authorization": f"Bearer {CANARY}"})
    for record in caplog.records:
        if record.name.startswith("tribody"):
            text = json.dumps([record.getMessage(), record.exc_text])
            assert CANARY not in text
            assert server.token not in text
            assert not [key for key in told if key in text]
    assert [r for r in caplog.records if "event=http_request" in r.getMessage()]
