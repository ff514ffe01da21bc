"""Nobody comes in who may not: every route, method and way to ask, with every kind of wrong key.

The fast tests try each kind of key on each route, and each trick on each route; the slow ones the
whole product.  Nothing of it may reach the engine, the database or the folder of files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.server.admin.admin_server import AdminServer, admin_server
from tests.server.bookkeeping import PRICES, Books, client
from tests.server.raw_http import CUT, RawAnswer, RawConnection
from tests.server.scripted import RunningServer, ScriptedEngine
from tribody.server.admin.routes import ROUTES as ADMIN_ROUTES
from tribody.server.auth import ANTHROPIC, OPEN_PATHS
from tribody.server.routes import OPENAPI_PATH, ROUTES
from tribody.tenancy import keys, store
from tribody.tenancy.records import ROUTES as ROUTE_LABELS
from tribody.tenancy.records import KeyChange, TenantChange

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE")
FILE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{}}\n'
BODY = b'{"accepted":true}'  # as good as none, but where it would spend money
NOT_HTTP = b"Invalid HTTP request received."


@dataclass
class Guarded:
    """A server with accounts, and keys of every kind."""

    running: RunningServer
    engine: ScriptedEngine
    books: Books
    good: str
    rival: str  # of another tenant
    revoked: str
    expired: str
    paused: str
    of_paused: str  # of a tenant that is paused
    key_id: str
    file_id: str  # these are of the tenant of `good`
    batch_id: str
    request_id: str  # of an answer that waits to be accepted

    @property
    def state(self) -> str:
        """Changes when anything is written."""
        db, found = self.books.db, hashlib.sha256()
        tables = db.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        for (name,) in tables:
            found.update(repr((name, db.rows(f"SELECT * FROM {name!s}"))).encode())
        for folder in ("files", "batches"):
            for path in sorted((self.books.folder / folder).iterdir()):
                found.update(repr((path.name, path.read_bytes())).encode())
        found.update(repr(len(self.engine.submitted)).encode())
        return found.hexdigest()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    books = Books(tmp_path_factory.mktemp("accounts") / "data")
    books.use(PRICES + 'result = "0.05"\naccept_seconds = 86400\n')
    for tenant in ("acme", "rival", "asleep"):
        books.add_tenant(tenant)
    names = ("good", "revoked", "expired", "paused")
    made = {name: books.add_key(name=name) for name in names}
    ids = {key.name: key.id for key in store.all_keys(books.db)}
    by: dict[str, Any] = {"at_ms": books.now_ms(), "who": "test"}
    store.revoke_key(books.db, ids["revoked"], **by)
    store.change_key(books.db, ids["expired"], KeyChange(expires_ms=1), **by)
    store.change_key(books.db, ids["paused"], KeyChange(is_paused=True), **by)
    rival, asleep = books.add_key("rival"), books.add_key("asleep")
    store.change_tenant(books.db, "asleep", TenantChange(is_paused=True), **by)
    running, engine = books.serve(data_dir=books.folder)
    with client(running, made["good"]) as http:
        upload = http.post(
            "/v1/files", files={"file": ("in.jsonl", FILE)}, data={"purpose": "batch"}
        )
        file_id = upload.json()["id"]
        batch = http.post(
            "/v1/batches",
            json={
                "input_file_id": file_id,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        batch_id = batch.json()["id"]
        while http.get(f"/v1/batches/{batch_id}").json()["status"] != "completed":
            pass
        asked = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}
        request_id = http.post("/v1/chat/completions", json=asked).headers["x-request-id"]
    yield Guarded(
        running, engine, books, **made, rival=rival, of_paused=asleep, key_id=ids["good"],
        file_id=file_id, batch_id=batch_id, request_id=request_id,
    )  # fmt: skip
    running.stop()


@pytest.fixture
def unchanged(guarded: Guarded) -> Iterator[Guarded]:
    """The server, which is as before at the test's end."""
    before = guarded.state
    yield guarded
    assert guarded.state == before


@pytest.fixture
def raw(guarded: Guarded) -> Iterator[RawConnection]:
    connection = RawConnection(guarded.running.url)
    yield connection
    connection.close()


def shown(path: str, guarded: Guarded) -> str:
    """A path of the table with ids that are there."""
    ids = {
        "file_id": guarded.file_id,
        "batch_id": guarded.batch_id,
        "request_id": guarded.request_id,
        "model_id": "scripted",
    }
    return re.sub(r"\{(\w+)(:path)?\}", lambda found: ids[found[1]], path)


def all_paths(guarded: Guarded) -> list[str]:
    every = {shown(path, guarded) for route in ROUTES for path in route.paths}
    return sorted(every | {OPENAPI_PATH})


def methods_of(path: str, guarded: Guarded) -> set[str]:
    return {
        route.method for route in ROUTES if path in {shown(one, guarded) for one in route.paths}
    } or {"GET"}


# --- keys that do not open --------------------------------------------------------------------


def bearer(key: str | bytes) -> bytes:
    return b"Authorization: Bearer " + (key.encode() if isinstance(key, str) else key)


def wrong_keys(guarded: Guarded) -> dict[str, tuple[list[bytes], set[int]]]:
    """Header lines, and the statuses that they may be answered with."""
    good = guarded.good
    last = "a" if good[-1] != "a" else "b"
    unknown = {
        "wrong": keys.new_key(),
        "last character": good[:-1] + last,
        "prefix": good[:-1],
        "longer": good + "a",
        "other case": good.swapcase(),
        "revoked": guarded.revoked,
        "expired": guarded.expired,
        "quoted": f'"{good}"',
        "twice in one": f"{good} {good}",
        "two with a comma": f"{good}, Bearer {good}",
        "digest": keys.digest(guarded.books.secret, good.encode()).hex(),
        "id": guarded.key_id,
        "shown": keys.shown(good),
        "tenant": "acme",
        "sql": "' OR '1'='1' --",
        "sql that drops": "x'; DROP TABLE api_keys; --",
        "sql that joins": 'x" UNION SELECT digest FROM api_keys; --',
        "wildcard": "%",
        "full width": "".join(chr(ord(character) + 0xFEE0) for character in good),
        "no-break space": f"\u00a0{good}",
        "long": "x" * 8_000,
    }
    denied: dict[str, tuple[list[bytes], set[int]]] = {
        name: ([bearer(key)], {401}) for name, key in unknown.items()
    }
    plain = good.encode()
    for name, lines in {
        "none": [],
        "not UTF-8": [bearer(b"\xff\xfe" * 20)],
        "empty": [b"Authorization:"],
        "scheme alone": [b"Authorization: Bearer"],
        "scheme and a space": [b"Authorization: Bearer "],
        "no scheme": [b"Authorization: " + plain],
        "basic": [b"Authorization: Basic " + plain],
        "another scheme": [b"Authorization: Bearers " + plain],
        "tab": [b"Authorization: Bearer\t" + plain],
        "twice": [bearer(good), bearer(good)],
        "good, wrong": [bearer(good), bearer(guarded.revoked)],
        "wrong, good": [bearer(guarded.revoked), bearer(good)],
        "good, empty": [bearer(good), b"Authorization:"],
        "proxy": [b"Proxy-Authorization: Bearer " + plain],
        "cookie": [b"Cookie: Authorization=Bearer " + plain + b"; api_key=" + plain],
        "other headers": [b"Api-Key: " + plain, b"X-Authorization: Bearer " + plain],
        "underscore": [b"Authorization_: Bearer " + plain],
    }.items():
        denied[name] = (lines, {401})
    denied["paused"] = ([bearer(guarded.paused)], {403})
    denied["of a paused tenant"] = ([bearer(guarded.of_paused)], {403})
    denied["NUL"] = ([bearer(plain + b"\0")], {400})
    denied["1 MiB"] = ([bearer(b"x" * 2**20)], {431, CUT})
    return denied


OF_ANTHROPIC: dict[str, Callable[[Guarded], tuple[list[bytes], int]]] = {
    "wrong": lambda g: ([b"X-Api-Key: " + keys.new_key().encode()], 401),
    "revoked": lambda g: ([b"X-Api-Key: " + g.revoked.encode()], 401),
    "paused": lambda g: ([b"X-Api-Key: " + g.paused.encode()], 403),
    "empty": lambda g: ([b"X-Api-Key:"], 401),
    "twice": lambda g: ([b"X-Api-Key: " + g.good.encode()] * 2, 401),
    "two that differ": lambda g: ([b"X-Api-Key: " + g.good.encode(), bearer(g.rival)], 401),
    "one of them wrong": lambda g: ([b"X-Api-Key: " + g.revoked.encode(), bearer(g.good)], 401),
    "three": lambda g: ([b"X-Api-Key: " + g.good.encode(), bearer(g.good), bearer(g.good)], 401),
    "with a scheme": lambda g: ([b"X-Api-Key: Bearer " + g.good.encode()], 401),
}

# What may be done to a path, or said beside it, to look like somebody or something else.
Trick = Callable[[str, Guarded], tuple[str | bytes, list[bytes]]]
TRICKS: dict[str, Trick] = {
    "plain": lambda path, g: (path, []),
    "trailing slash": lambda path, g: (path + "/", []),
    "double slash": lambda path, g: ("/" + path, []),
    "dot segment": lambda path, g: ("/." + path, []),
    "back from an open path": lambda path, g: ("/health/.." + path, []),
    "the same, encoded": lambda path, g: ("/health/%2e%2e" + path, []),
    "the same, twice encoded": lambda path, g: ("/health/%252e%252e" + path, []),
    "encoded slash": lambda path, g: (path.replace("/", "/%2f", 1), []),
    "encoded letter": lambda path, g: (f"/%{ord(path[1]):02x}{path[2:]}", []),
    "upper case": lambda path, g: (path.upper(), []),
    "absolute form": lambda path, g: (g.running.url + path, []),
    "another host's": lambda path, g: ("http://localhost" + path, [b"Host: example.org"]),
    "key before the host": lambda path, g: (f"http://{g.good}:{g.good}@localhost{path}", []),
    "key in the query": lambda path, g: (f"{path}?api_key={g.good}&access_token={g.good}", []),
    "matrix": lambda path, g: (path + ";/health", []),
    "open path in the query": lambda path, g: (path + "?/health", []),
    "encoded NUL": lambda path, g: (path + "%00/health", []),
    "encoded line break": lambda path, g: (path + "%0d%0a", []),
    "backslash": lambda path, g: ("/health\\.." + path, []),
    "open path as host": lambda path, g: (path, [b"Host: 127.0.0.1/health"]),
    "two hosts": lambda path, g: (path, [b"Host: 127.0.0.1", b"Host: localhost"]),
    "forwarded": lambda path, g: (
        path,
        [
            b"X-Forwarded-For: 127.0.0.1",
            b"X-Forwarded-Host: localhost",
            b"X-Forwarded-Prefix: /health",
            b"X-Real-IP: ::1",
            b"Forwarded: for=127.0.0.1;host=localhost",
            b"Client-IP: 127.0.0.1",
        ],
    ),
    "rewritten": lambda path, g: (
        path,
        [
            b"X-Original-URL: /health",
            b"X-Rewrite-URL: /health",
            b"X-HTTP-Method-Override: GET",
            b"X-Original-Host: localhost",
        ],
    ),
    "trusted by a proxy": lambda path, g: (path, [b"Remote-User: root", b"X-Tenant-Id: acme"]),
}
OPEN_STILL = frozenset(
    {
        "plain",
        "encoded letter",
        "absolute form",
        "another host's",
        "key before the host",
        "key in the query",
        "open path in the query",
        "open path as host",
        "two hosts",
        "forwarded",
        "rewritten",
        "trusted by a proxy",
    }
)  # which leave a path what it is


def is_denied(answer: RawAnswer, expected: set[int], trick: str) -> bool:
    """Whether it was said so, or was no HTTP at all."""
    if trick != "plain" and answer.status == 400:
        return NOT_HTTP in answer.body
    return answer.status in expected


def try_all(
    guarded: Guarded, raw: RawConnection, trick: str, methods: tuple[str, ...], names: set[str]
) -> int:
    """Every path with the wrong keys of these names; how many requests that were."""
    denied = {n: found for n, found in wrong_keys(guarded).items() if n in names or not names}
    count = 0
    for path in all_paths(guarded):
        if path in OPEN_PATHS and trick in OPEN_STILL:
            continue
        target, beside = TRICKS[trick](path, guarded)
        for method in methods or (*methods_of(path, guarded), "PUT"):
            for name, (lines, expected) in denied.items():
                answer = raw.ask(method, target, [*beside, *lines], BODY)
                count += 1
                assert is_denied(answer, expected, trick), (
                    name, method, target, answer.status, answer.body[:300],
                )  # fmt: skip
                assert guarded.good.encode() not in answer.head + answer.body
    return count


def test_no_wrong_key_opens_a_route(unchanged: Guarded, raw: RawConnection) -> None:
    assert try_all(unchanged, raw, "plain", (), set()) > 2_500


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_opens_a_route(unchanged: Guarded, raw: RawConnection, trick: str) -> None:
    try_all(unchanged, raw, trick, (), {"none", "wrong", "revoked", "paused"})


@pytest.mark.slow
@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_opens_a_route_to_any_method_and_key(
    unchanged: Guarded, raw: RawConnection, trick: str
) -> None:
    assert try_all(unchanged, raw, trick, METHODS, set()) > 10_000


def test_other_headers_open_nothing(unchanged: Guarded, raw: RawConnection) -> None:
    """`x-api-key` is Anthropic's, on its paths alone."""
    for path in all_paths(unchanged):
        if path in OPEN_PATHS:
            continue
        for method in methods_of(path, unchanged):
            if not path.startswith(ANTHROPIC):
                lines = [b"X-Api-Key: " + unchanged.good.encode()]
                assert raw.ask(method, path, lines, b"{}").status == 401, path
                continue
            for name, made in OF_ANTHROPIC.items():
                lines, expected = made(unchanged)
                assert raw.ask(method, path, lines, b"{}").status == expected, (name, path)


def test_a_good_key_opens_all_but_the_metrics(guarded: Guarded, raw: RawConnection) -> None:
    """Otherwise the tests above would show nothing."""
    scrapes = guarded.books.add_key(routes=frozenset({"metrics"}))
    for path in all_paths(guarded):
        for method in methods_of(path, guarded) - {"DELETE"}:
            answer = raw.ask(method, path, [bearer(guarded.good)], b"{}")
            assert (answer.status == 403) == (path == "/metrics"), (method, path, answer.body)
            assert answer.status != 401, (method, path)
    while raw.ask("GET", "/metrics", [bearer(scrapes)]).status == 401:
        pass
    assert raw.ask("GET", "/metrics", [bearer(scrapes)]).status == 200


def test_strangers_learn_nothing_of_a_key(unchanged: Guarded, raw: RawConnection) -> None:
    """Unknown, revoked and expired are answered alike but for the end of what was sent."""
    bodies = set()
    for key in (keys.new_key(), unchanged.revoked, unchanged.expired):
        answer = raw.ask("GET", "/v1/models", [bearer(key)])
        bodies.add(answer.body.replace(key[-4:].encode(), b"...."))
    assert len(bodies) == 1


# --- the admin API ----------------------------------------------------------------------------


def admin_paths() -> list[tuple[str, str]]:
    """Methods and paths, with ids that may be there."""
    ids = {"tenant_id": "acme", "user_id": "ann", "key_id": "key-0"}
    return [
        (route.method, re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], "x"), path))
        for route in ADMIN_ROUTES
        for path in route.paths
    ]


@pytest.fixture(scope="module")
def admin(guarded: Guarded) -> Iterator[AdminServer]:
    """The admin API of the same accounts."""
    with admin_server(guarded.books.folder) as running:
        yield running


def test_the_public_listener_has_no_admin_routes(
    unchanged: Guarded, admin: AdminServer, raw: RawConnection
) -> None:
    """Not for a tenant's key, and the operator's token is none there."""
    with admin.client() as http:
        assert http.get("/admin/tenants").status_code == 200
    for method, path in [*admin_paths(), ("GET", "/admin"), ("GET", "/admin/")]:
        assert raw.ask(method, path, [bearer(unchanged.good)], b"{}").status == 404, path
        assert raw.ask(method, path, [bearer(admin.token)], b"{}").status == 401, path
        assert raw.ask(method, path, [], b"{}").status == 401, path


@pytest.mark.parametrize("trick", TRICKS)
def test_the_admin_listener_takes_no_tenants_key(
    unchanged: Guarded, admin: AdminServer, trick: str
) -> None:
    raw = RawConnection(admin.url)
    for method, path in admin_paths():
        target, beside = TRICKS[trick](path, unchanged)
        for lines in ([], [bearer(unchanged.good)], [b"X-Api-Key: " + unchanged.good.encode()]):
            answer = raw.ask(method, target, [*beside, *lines], b"{}")
            assert is_denied(answer, {401, 403}, trick), (method, target, answer.body)
    raw.close()


# --- keys that open something else ------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(guarded: Guarded) -> dict[str, str]:
    """A key for each label of routes, and one for another model, when the server knows them."""
    made = {label: guarded.books.add_key(routes=frozenset({label})) for label in ROUTE_LABELS}
    made["other model"] = guarded.books.add_key(models=frozenset({"other"}))
    for key in made.values():
        with client(guarded.running, key) as http:
            while http.get("/v1/nothing").status_code == 401:
                pass
    return made


def label_of(path: str, guarded: Guarded) -> str:
    found = {r.scope for r in ROUTES if path in {shown(one, guarded) for one in r.paths}}
    assert len(found) <= 1
    return found.pop() if found else "version"


def test_a_key_opens_its_own_routes_alone(
    unchanged: Guarded, narrow: dict[str, str], raw: RawConnection
) -> None:
    for path in set(all_paths(unchanged)) - OPEN_PATHS:
        for label in sorted(ROUTE_LABELS):
            for method in sorted(methods_of(path, unchanged) - {"DELETE"} | {"PUT"}):
                answer = raw.ask(method, path, [bearer(narrow[label])], b"{}")
                opens = label == label_of(path, unchanged)
                assert (answer.status != 403) == opens, (label, method, path, answer.body)
                assert answer.status != 401


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_opens_other_routes(
    unchanged: Guarded, narrow: dict[str, str], raw: RawConnection, trick: str
) -> None:
    for path in set(all_paths(unchanged)) - OPEN_PATHS:
        if label_of(path, unchanged) == "balance":
            continue
        target, beside = TRICKS[trick](path, unchanged)
        for method in METHODS:
            answer = raw.ask(method, target, [*beside, bearer(narrow["balance"])], b"{}")
            assert is_denied(answer, {403}, trick), (method, target, answer.body)


ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/anthropic/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/anthropic/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/embeddings": {"input": "x"},
    "/tokenize": {"prompt": "x"},
}


def test_a_key_reaches_its_own_models_alone(unchanged: Guarded, narrow: dict[str, str]) -> None:
    asked = set()
    with client(unchanged.running, narrow["other model"]) as http:
        for route in ROUTES:
            if route.request is None or "model" not in route.request.__struct_fields__:
                continue
            body = ASKS[route.paths[0]]
            for path in route.paths:
                for stream in (False, True) if route.generates else (False,):
                    answer = http.post(path, json={"model": "scripted", "stream": stream, **body})
                    assert answer.status_code in (400, 404), (path, answer.text)
                    assert "model" in answer.text
                    asked.add(route.paths[0])
        assert http.get("/v1/models").json()["data"] == []
        for path in ("/v1/models/scripted", "/models/scripted"):
            assert http.get(path).status_code == 404
    assert asked == set(ASKS)


# --- what is another tenant's -----------------------------------------------------------------


def test_what_is_anothers_does_not_exist(unchanged: Guarded) -> None:
    """The same answer as for an id that nobody has, on every route with an id, by every method."""
    swap = {
        unchanged.file_id: unchanged.file_id[:-4] + "0000",
        unchanged.batch_id: unchanged.batch_id[:-4] + "0000",
        unchanged.request_id: unchanged.request_id[:-4] + "0000",
    }
    count = 0
    with client(unchanged.running, unchanged.rival) as http:
        for route in ROUTES:
            for pattern in route.paths:
                path = shown(pattern, unchanged)
                if not any(name in path for name in swap):
                    continue
                missing = path
                for ours, nobodys in swap.items():
                    missing = missing.replace(ours, nobodys)
                answer, nothing = (
                    http.request(route.method, one, content=BODY) for one in (path, missing)
                )
                assert answer.status_code == nothing.status_code == 404, path
                assert answer.text == nothing.text, path
                count += 1
        for path in ("/v1/files", "/v1/batches"):
            assert http.get(path).json()["data"] == []
        theirs = {
            "input_file_id": unchanged.file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        answers = [
            http.post("/v1/batches", json=theirs | {"input_file_id": name})
            for name in (unchanged.file_id, swap[unchanged.file_id])
        ]
        assert {answer.status_code for answer in answers} <= {400, 404}
        assert answers[0].text == answers[1].text
    assert count == 11


def test_an_answer_is_repeated_to_its_own_tenant_alone(guarded: Guarded) -> None:
    """An Idempotency-Key is as good as none in another tenant's hands."""
    body = {"model": "scripted", "messages": [{"role": "user", "content": "mine"}]}
    answers = []
    for key in (guarded.good, guarded.good, guarded.rival):
        with client(guarded.running, key) as http:
            headers = {"Idempotency-Key": "the-same"}
            answers.append(http.post("/v1/chat/completions", json=body, headers=headers))
    assert [answer.status_code for answer in answers] == [200] * 3
    first, again, theirs = (json.loads(answer.text) for answer in answers)
    assert first == again
    assert theirs["id"] != first["id"]
    assert theirs["usage"]["prompt_cache_hit_tokens"] == 0
