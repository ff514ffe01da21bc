"""Keys: who may do what, route by route."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.scripted import RunningServer, client_of, run_server, scripted_model
from tribody.core.errors import BadConfig
from tribody.core.principal import LOCAL
from tribody.server.auth import OPEN_PATHS, KeyFile, authenticate, cache_salt
from tribody.server.errors import Unauthorized
from tribody.server.routes import ROUTES

KEY = "key-number-one"
OTHER = "key-number-two"
CLOSED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/scripted"),
    ("GET", "/models"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/nowhere"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("GET", "/health/../v1/models"),
    ("GET", "/%2e/health"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/chat/completions"),
    ("POST", "/v1/completions"),
    ("DELETE", "/v1/models"),
    ("OPTIONS", "/v1/models"),
]
BAD_HEADERS: dict[str, list[tuple[str, str | bytes]]] = {
    "none": [],
    "wrong": [("Authorization", "Bearer key-number-onf")],
    "prefix": [("Authorization", "Bearer key-number-on")],
    "longer": [("Authorization", "Bearer key-number-one1")],
    "empty": [("Authorization", "Bearer")],
    "no scheme": [("Authorization", KEY)],
    "basic": [("Authorization", f"Basic {KEY}")],
    "twice": [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
    "sql": [("Authorization", "Bearer ' OR 1=1 --")],
    "long": [("Authorization", "Bearer " + "x" * 8000)],
    "not ascii": [("Authorization", "Bearer schlüssel".encode())],
    "another header": [("X-Api-Key", KEY)],
    "comment line": [("Authorization", "Bearer # a comment")],
    "host": [("Authorization", "Bearer nope1234"), ("Host", "127.0.0.1")],
    "forwarded": [("X-Forwarded-For", "127.0.0.1")],
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"# a comment\n\n  {KEY}  \n{OTHER}\n")
    running = run_server([scripted_model()], keys=KeyFile.read(path))
    yield running
    running.stop()


@pytest.mark.parametrize("headers", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_every_route_refuses_a_stranger(
    guarded: RunningServer, headers: list[tuple[str, str]]
) -> None:
    with client_of(guarded) as http:
        for method, path in CLOSED:
            answer = http.request(method, path, headers=headers, content=b"{}")
            assert answer.status_code == 401, (method, path)
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert KEY not in answer.text
        for path in ("/health", "/livez", "/readyz"):
            assert http.get(path, headers=headers).status_code == 200


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PATHS = sorted({re.sub(r"\{\w+(:path)?\}", "x", p) for route in ROUTES for p in route.paths})
# What may be done to a path, or said about the host, to look like somebody else.
TRICKS: dict[str, Callable[[str], tuple[str, dict[str, str]]]] = {
    "plain": lambda path: (path, {}),
    "trailing slash": lambda path: (path + "/", {}),
    "double slash": lambda path: ("/" + path, {}),
    "dot segment": lambda path: ("/health/.." + path, {}),
    "encoded dot segment": lambda path: ("/health/%2e%2e" + path, {}),
    "encoded slash": lambda path: (path.replace("/", "/%2f", 1), {}),
    "upper case": lambda path: (path.upper(), {}),
    "query": lambda path: (path + "?api_key=" + KEY, {}),
    "matrix": lambda path: (path + ";/health", {}),
    "open host": lambda path: (path, {"Host": "127.0.0.1:8000/health"}),
    "forwarded": lambda path: (path, {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "::1"}),
    "rewritten": lambda path: (path, {"X-Original-URL": "/health", "X-Rewrite-URL": "/health"}),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_opens_a_route(guarded: RunningServer, trick: str) -> None:
    """Every route, every method, with no key and with a wrong one."""
    with client_of(guarded) as http:
        for path in PATHS:
            if path in OPEN_PATHS and trick in ("plain", "query", *_OF_HEADERS):
                continue
            target, headers = TRICKS[trick](path)
            for method in METHODS:
                for key in ({}, {"Authorization": "Bearer wrong-key-number"}):
                    answer = http.request(
                        method, path, headers=headers | key, extensions={"target": target.encode()}
                    )
                    assert answer.status_code in (401, 400), (method, target, answer.text)
    assert not guarded.engine.submitted


_OF_HEADERS = ("open host", "forwarded", "rewritten")


def test_keys_open_and_separate_the_caches(guarded: RunningServer) -> None:
    guarded.engine.reset()
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "temperature": 0}
    hits = []
    for key in (KEY, KEY, OTHER):
        with client_of(guarded) as http:
            http.headers["Authorization"] = f"bearer {key}"
            assert http.get("/v1/models").status_code == 200
            assert http.get("/metrics").status_code == 200
            answer = http.post("/v1/chat/completions", json=body)
            hits.append(answer.json()["usage"]["prompt_cache_hit_tokens"])
    assert hits[0] == 0
    assert hits[1] > 0
    assert hits[2] == 0


def test_key_file_problems(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(BadConfig, match="cannot be read"):
        KeyFile.read(path)
    path.write_text("# nothing\n\n")
    with pytest.raises(BadConfig, match="holds no key"):
        KeyFile.read(path)
    path.write_text("good-enough\nshort\n")
    with pytest.raises(BadConfig, match="key 2 has 5 characters"):
        KeyFile.read(path)
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(BadConfig, match="cannot be read"):
        KeyFile.read(path)


def test_the_keys_themselves_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY)
    keys = KeyFile.read(path)
    assert KEY not in repr(keys)
    principal = authenticate([(b"authorization", f"Bearer {KEY}".encode())], keys)
    assert KEY not in repr(principal)
    with pytest.raises(Unauthorized):
        authenticate([], keys)
    assert authenticate([], None) == LOCAL


def test_salts_differ_by_tenant_and_user() -> None:
    salts = {cache_salt(LOCAL, user) for user in ("", "a", "b")}
    assert len(salts) == 3
