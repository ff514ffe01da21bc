"""What callers say, hear and hold stays between them and the engine.

Strings that exist nowhere else stand in prompts, answers, keys and headers of requests that fail in
every way there is; then they are looked for in logs, output, metrics, error bodies and headers of
answers, and in the files of the data folder but for uploaded files and batches, where they belong.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.server.bookkeeping import PRICES, Books
from tests.server.raw_http import RawAnswer, RawConnection
from tests.server.scripted import RunningServer, ScriptedEngine
from tribody.cli.logs import start_logging
from tribody.core.errors import EngineFailed, Overloaded
from tribody.core.principal import Limits
from tribody.server import batch_lines
from tribody.server.routes import ROUTES

CANARY = re.compile(r"zq[0-9a-f]{20}zq")


class Canaries:
    """Strings of 24 letters and digits, and what each was said in; and keys, which are as rare."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.keys: dict[str, str] = {}

    def new(self, what: str) -> str:
        canary = f"zq{secrets.token_hex(10)}zq"
        self.said[canary] = what
        return canary

    def in_text(self, text: str) -> set[tuple[str, str]]:
        """What they were said in, and they."""
        found = {one for one in CANARY.findall(text.lower()) if one in self.said}
        held = {(what, key) for key, what in self.keys.items() if key in text}
        return held | {(self.said[one], one) for one in found}


Fields = dict[str, Any]

NAMED = frozenset({"id in a path", "schema's type"})
# Who asks for something by its name is told the name of what is not there; nobody else is.


def messages(c: Canaries) -> list[Fields]:
    return [{"role": "user", "content": f"tell me of {c.new('prompt')}"}]


ASKS: dict[str, Callable[[Canaries], Fields]] = {
    "/v1/chat/completions": lambda c: {
        "messages": [{"role": "system", "content": c.new("system prompt")}, *messages(c)],
        "user_id": c.new("user_id"),
        "stop": [c.new("stop")],
    },
    "/v1/completions": lambda c: {"prompt": c.new("text prompt"), "suffix": None},
    "/v1/responses": lambda c: {"input": c.new("input"), "instructions": c.new("instructions")},
    "/anthropic/v1/messages": lambda c: {
        "messages": messages(c),
        "system": c.new("system"),
        "max_tokens": 20,
        "metadata": {"user_id": c.new("metadata.user_id")},
    },
    "/v1/embeddings": lambda c: {"input": [c.new("embedded text")]},
    "/tokenize": lambda c: {"prompt": c.new("tokenized prompt")},
    "/anthropic/v1/messages/count_tokens": lambda c: {"messages": messages(c)},
}
assert set(ASKS) == {
    route.paths[0]
    for route in ROUTES
    if route.request and "model" in route.request.__struct_fields__
}

# What makes a good body a bad one.
Spoil = Callable[[Fields, Canaries], Fields]
SPOILS: dict[str, Spoil] = {
    "wrong type": lambda body, c: body | {"temperature": c.new("wrong type"), "max_tokens": "x"},
    "beyond its range": lambda body, c: body | {"temperature": 99, "max_tokens": -1},
    "prompt of a wrong type": lambda body, c: {
        name: {"text": c.new("wrong prompt")} if isinstance(value, str | list) else value
        for name, value in body.items()
    },
    "no prompt": lambda body, c: {"user": c.new("user")},
    "unknown model": lambda body, c: body | {"model": "nobody's"},
    "unknown role": lambda body, c: body | {
        "messages": [{"role": "wizard", "content": c.new("content of an unknown role")}],
        "input": [{"role": "wizard", "content": c.new("content of an unknown role")}],
    },
    "a part nobody knows": lambda body, c: body | {
        "messages": [
            {"role": "user", "content": [{"type": "smell", "smell": c.new("part")}]}
        ]
    },
    "beyond the context": lambda body, c: {
        name: c.new("long prompt") * 200 if name in ("prompt", "input") else (
            [{"role": "user", "content": c.new("long prompt") * 200}]
            if name == "messages" else value
        )
        for name, value in body.items()
    },
    "bad schema": lambda body, c: body | {
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "x",
                "schema": {"type": "string", "pattern": "(" + c.new("pattern")},
            },
        },
        "text": {
            "format": {
                "type": "json_schema",
                "name": "x",
                "schema": {"type": c.new("schema's type")},
            }
        },
    },
    "bad tools": lambda body, c: body | {
        "tools": [
            {
                "type": "function",
                "name": "f",
                "function": {
                    "name": "f",
                    "description": c.new("tool's description"),
                    "parameters": {"type": c.new("tool's type")},
                },
                "parameters": {"type": c.new("tool's type")},
                "input_schema": {"type": c.new("tool's type")},
            }
        ]
    },
    "tool result of nothing": lambda body, c: body | {
        "messages": [{"role": "tool", "tool_call_id": "x", "content": c.new("tool result")}]
    },
    "template's arguments": lambda body, c: body | {
        "chat_template_kwargs": {"x": c.new("template's argument")}
    },
    "lone surrogate": lambda body, c: body | {"user": "\ud800" + c.new("beside a surrogate")},
}  # fmt: skip
BROKEN: dict[str, Callable[[bytes, Canaries], bytes]] = {
    "cut": lambda raw, c: raw[:-4],
    "not JSON": lambda raw, c: c.new("body").encode() + raw,
    "no object": lambda raw, c: json.dumps([c.new("list")]).encode(),
    "not UTF-8": lambda raw, c: raw.replace(b"zq", b"zq\xff", 1),
    "after the end": lambda raw, c: raw + c.new("after the end").encode(),
    "empty": lambda raw, c: b"",
}
ENGINE_FAULTS: dict[str, Fields] = {
    "none": {},
    "full": {"refuse": Overloaded("full")},
    "gone": {"refuse": EngineFailed("exit status 9")},
    "fails at once": {"fail_after": 0},
    "fails later": {"fail_after": 30},
    "dies at once": {"die_after": 0},
    "dies later": {"die_after": 30},
}


@dataclass
class Sweep:
    """A server with accounts, and all that was heard of it."""

    running: RunningServer
    engine: ScriptedEngine
    books: Books
    canaries: Canaries
    keys: dict[str, str]
    answers: list[RawAnswer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.raw = RawConnection(self.running.url)

    def headers(self, key: str | None) -> list[bytes]:
        c = self.canaries
        said = {
            "User-Agent": c.new("user agent"),
            "Cookie": f"session={c.new('cookie')}",
            "Referer": f"https://example.org/{c.new('referer')}",
            "X-Request-Id": c.new("request id"),
            "Traceparent": c.new("trace"),
            "X-Forwarded-For": c.new("forwarded"),
            "Accept-Language": c.new("language"),
            c.new("header's name"): "x",
        }
        lines = [f"{name}: {value}".encode() for name, value in said.items()]
        return lines + ([f"Authorization: Bearer {key}".encode()] if key else [])

    def ask(
        self, method: str, target: str, body: bytes = b"", key: str | None = "good"
    ) -> RawAnswer:
        shown = self.keys.get(key, key) if key else None
        answer = self.raw.ask(method, target, self.headers(shown), body)
        self.answers.append(answer)
        return answer


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    monkeypatch.setattr(batch_lines, "RETRY_SECONDS", 0.01)
    books = Books(tmp_path / "data")
    books.use(PRICES)
    books.add_tenant()
    books.add_tenant("poor", yuan=0)
    made = {
        "good": books.add_key(),
        "poor": books.add_key("poor"),
        "narrow": books.add_key(routes=frozenset({"balance"})),
        "slow": books.add_key(limits=Limits(requests_per_minute=1, tokens_per_minute=5)),
        "metrics": books.add_key(routes=frozenset({"metrics"})),
    }
    running, engine = books.serve(data_dir=books.folder)
    canaries = Canaries()
    for name, key in made.items():
        canaries.keys[key[3:24]] = f"key {name}"
    swept = Sweep(running, engine, books, canaries, made)
    yield swept
    swept.raw.close()
    running.stop()


def encoded(body: Fields) -> bytes:
    return json.dumps({"model": "scripted", "max_tokens": 40, **body}).encode()


def fail_in_every_way(sweep: Sweep) -> None:
    c, engine = sweep.canaries, sweep.engine
    heard = f"{c.new('answer')} " * 3
    engine.script = lambda request, choice: heard
    for path, make in ASKS.items():
        for fault, levers in ENGINE_FAULTS.items():
            for name, value in levers.items():
                setattr(engine, name, value)
            for stream in (False, True):
                if stream and path in ("/v1/embeddings", "/tokenize"):
                    continue
                answer = sweep.ask("POST", path, encoded(make(c) | {"stream": stream}))
                assert fault != "none" or answer.status == 200, (path, answer.body)
            engine.refuse = engine.fail_after = engine.die_after = None
        for spoil in SPOILS.values():
            for stream in (False, True):
                sweep.ask("POST", path, encoded(spoil(make(c), c) | {"stream": stream}))
        for broken in BROKEN.values():
            sweep.ask("POST", path, broken(encoded(make(c)), c))
        for key in ("poor", "narrow", "slow", "slow", None, f"sk-{c.new('wrong key')}", "é" * 9):
            sweep.ask("POST", path, encoded(make(c)), key)
        cut_off(sweep, path, encoded(make(c)))


def cut_off(sweep: Sweep, path: str, body: bytes) -> None:
    """The client leaves: in its body, and behind it."""
    for size in (len(body) - 5, len(body)):
        raw = RawConnection(sweep.running.url)
        key = [*sweep.headers(sweep.keys["good"]), b"Content-Length: %d" % len(body)]
        raw.send("POST", path, key, body[:size])
        raw.close()


def ask_other_routes(sweep: Sweep) -> None:
    c = sweep.canaries
    for route in ROUTES:
        for key in ("good", "narrow", None, f"sk-{c.new('wrong key')}"):
            path = re.sub(r"\{\w+(:path)?\}", c.new("id in a path"), route.paths[0])
            body = json.dumps({"x": c.new("field of another route")}).encode()
            sweep.ask(route.method, path, body, key)
            sweep.ask("PATCH", f"{path}?q={c.new('query')}", body, key)
            sweep.ask(c.new("method").upper(), path, body, key)
    for path in ("/nothing", "/v1/chat/completions/", "/admin/tenants"):
        sweep.ask("GET", f"{path}/{c.new('path')}?q={c.new('query')}#x")
    sweep.raw.ask("GET", "/v1/models", [b"X-Long: " + c.new("long header").encode() * 900])
    sweep.raw.ask("GET", "/v1/models", [b"X-Bad: \0" + c.new("header with NUL").encode()])
    sweep.raw.ask("GET", f"no/slash/{c.new('target')}", sweep.headers(None))
    large = [*sweep.headers(sweep.keys["good"]), b"Content-Length: 999999999"]
    sweep.answers.append(
        sweep.raw.ask("POST", "/v1/chat/completions", large, c.new("large body").encode())
    )
    upgrade = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"]
    sweep.raw.ask("GET", f"/v1/models?q={c.new('upgrade')}", upgrade)


def run_batches(sweep: Sweep) -> None:
    """One whose lines fail in the engine, one whose lines are none; what they hold stays theirs."""
    c = sweep.canaries
    body = {"model": "scripted", "messages": messages(c)}
    good = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    sweep.engine.fail_after = 0
    for lines in (json.dumps(good), c.new("line of a batch"), json.dumps([c.new("list line")])):
        name = f"b{secrets.token_hex(8)}"
        form = (
            f'--{name}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{name}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
            f"{lines}\r\n--{name}--\r\n"
        ).encode()
        headers = [
            *sweep.headers(sweep.keys["good"]),
            f"Content-Type: multipart/form-data; boundary={name}".encode(),
        ]
        file_id = json.loads(sweep.raw.ask("POST", "/v1/files", headers, form).body)["id"]
        asked = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        batch = json.loads(sweep.ask("POST", "/v1/batches", json.dumps(asked).encode()).body)
        while batch["status"] not in ("completed", "failed"):
            batch = json.loads(sweep.ask("GET", f"/v1/batches/{batch['id']}").body)
    sweep.engine.fail_after = None


def error_text(answer: RawAnswer) -> str:
    """What of an answer may hold nothing: its head, and of what it says the errors."""
    body = answer.body.decode("utf-8", "replace")
    if answer.status < 400:
        body = "\n".join(line for line in body.splitlines() if '"error"' in line[:40])
    return answer.head.decode("latin-1") + body


def own_files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent.name not in ("files", "batches"):
            yield path.name, path.read_bytes().decode("latin-1")


def leaks(sweep: Sweep, logged: str, printed: str) -> dict[str, set[tuple[str, str]]]:
    """Where which canaries were seen."""
    found: dict[str, set[tuple[str, str]]] = {
        "logs": sweep.canaries.in_text(logged),
        "output": sweep.canaries.in_text(printed),
        "metrics": sweep.canaries.in_text(
            sweep.raw.ask(
                "GET", "/metrics", [b"Authorization: Bearer " + sweep.keys["metrics"].encode()]
            ).body.decode()
        ),
    }
    found["errors"] = set()
    for answer in sweep.answers:
        seen = sweep.canaries.in_text(error_text(answer))
        found["errors"] |= {(what, canary) for what, canary in seen if what not in NAMED}
    for name, content in own_files(sweep.books.folder):
        found[name] = sweep.canaries.in_text(content)
    return {where: seen for where, seen in found.items() if seen}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_nothing_that_is_said_is_seen_elsewhere(
    sweep: Sweep,
    rounds: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("uvicorn", "asyncio"):
        caplog.set_level(logging.DEBUG, name)  # so that it is put back
    start_logging("debug")
    for _ in range(rounds):
        fail_in_every_way(sweep)
        ask_other_routes(sweep)
        run_batches(sweep)
    logged = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    printed = "".join(capfd.readouterr())
    statuses = {answer.status for answer in sweep.answers}
    assert statuses >= {200, 400, 401, 402, 403, 404, 405, 413, 429, 500, 503}
    assert len(sweep.answers) > 600 * rounds
    assert "event=http_request" in logged
    assert leaks(sweep, logged, printed) == {}


def test_the_search_finds_what_is_there(sweep: Sweep) -> None:
    """In logs, in output, in an error and in the database."""
    c = sweep.canaries
    logged, printed, error, kept = (c.new(what) for what in ("log", "print", "error", "row"))
    sweep.answers.append(RawAnswer(400, b"", f'{{"error":"{error}"}}'.encode()))
    sweep.answers.append(RawAnswer(200, b"", f'data: {{"error":"{error}"}}\n{kept}'.encode()))
    sweep.books.db.run("INSERT INTO revision (area, number) VALUES (?, 1)", [kept])
    found = leaks(sweep, f"x {logged} y", printed)
    assert found.pop("accounts.db-wal") == {("row", kept)}
    assert found == {
        "logs": {("log", logged)},
        "output": {("print", printed)},
        "errors": {("error", error)},
    }
