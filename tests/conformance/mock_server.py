"""A small server that keeps the chat part of the contract, until a test gives it a fault.

It follows the directives of the scripted model as far as the checks of chat use them.  `Wrong` is a
server that gives every request one and the same answer.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import Receive, Scope, Send

from tests.conformance import mock_surfaces as surfaces
from tests.conformance.mock_model import Json, Said, said

KEY = "sk-mock-key-00000001"
JSON = "application/json"
SSE = "text/event-stream"


@dataclass
class Faults:
    """What a test breaks; each takes what would have been sent and gives what is sent."""

    plain: Callable[[Json], object] = lambda answer: answer
    chunks: Callable[[list[Json]], list[Json]] = lambda chunks: chunks
    raw: Callable[[bytes], bytes] = lambda body: body  # of a stream
    refusal: Callable[[int, Json], tuple[int, object]] = lambda status, body: (status, body)
    headers: Callable[[dict[str, str]], dict[str, str]] = lambda headers: headers
    accepts_all: bool = False


class Mock:
    """The ASGI application."""

    def __init__(self) -> None:
        self.faults = Faults()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, kind, content = self.answer(scope, body)
        headers = {"content-type": kind, "x-request-id": uuid.uuid4().hex}
        headers = self.faults.headers(headers | {"cache-control": "no-cache"})
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})

    def answer(self, scope: Scope, body: bytes) -> tuple[int, str, bytes]:
        given = dict(scope["headers"])
        if KEY.encode() not in (given.get(b"authorization", b"")[7:], given.get(b"x-api-key")):
            return self.refusal(401, "Authentication Fails", "authentication_error")
        path = scope["path"].removeprefix("/v1")
        if path in ("/anthropic/v1/messages", "/responses") and scope["method"] == "POST":
            return self.surface(path, body)
        if path == "/models" and scope["method"] == "GET":
            card = {"id": "mock", "object": "model", "owned_by": "mock"}
            return 200, JSON, json.dumps({"object": "list", "data": [card]}).encode()
        if path != "/chat/completions" or scope["method"] != "POST":
            return self.refusal(404, "There is no such route.")
        return self.chat(body)

    def surface(self, path: str, raw: bytes) -> tuple[int, str, bytes]:
        """The Anthropic and the Responses surface, whose answers stand in mock_surfaces."""
        anthropic = path.startswith("/anthropic")
        try:
            body = json.loads(raw)
            turn = said(surfaces.as_chat(body))
            most = body.get("max_tokens" if anthropic else "max_output_tokens")
            if body["model"] != "mock" or most == 0 or body.get("temperature") not in (None, 0):
                raise ValueError
        except (ValueError, TypeError, LookupError, AttributeError):
            status, kind, content = self.refusal(400, "The request is wrong.")
            if anthropic:
                content = json.dumps({"type": "error"} | json.loads(content)).encode()
            return status, kind, content
        marks = body.get("stop_sequences") or [None]
        if anthropic:
            whole = surfaces.message(turn, marks[0])
            make = surfaces.message_events
        else:
            whole, make = surfaces.response(turn), surfaces.response_events
        if body.get("stream"):
            events = self.faults.chunks(make(whole))
            return 200, SSE, self.faults.raw(surfaces.named_events(events))
        return 200, JSON, json.dumps(self.faults.plain(whole)).encode()

    def refusal(
        self, status: int, message: str, kind: str = "invalid_request_error"
    ) -> tuple[int, str, bytes]:
        error: Json = {"message": message, "type": kind, "param": None,
                       "code": "invalid_request_error"}  # fmt: skip
        status, body = self.faults.refusal(status, {"error": error})
        return status, JSON, json.dumps(body).encode()

    def chat(self, raw: bytes) -> tuple[int, str, bytes]:
        try:
            body = json.loads(raw)
            turn = said(body)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            if not self.faults.accepts_all:
                return self.refusal(400, "The request is wrong.")
            body, turn = {}, Said(content="Yes.")
        if not self.faults.accepts_all:
            if body.get("model") != "mock":
                return self.refusal(400, "Model Not Exist")
            if body.get("temperature") not in (None, 0, 1, 2):
                return self.refusal(422, "temperature is wrong")
            if "bad name" in str(body.get("tools")) or isinstance(body.get("max_tokens"), str):
                return self.refusal(422, "tools or max_tokens is wrong")
        if body.get("stream"):
            return 200, SSE, self.faults.raw(stream_bytes(self.faults.chunks(chunks(turn))))
        return 200, JSON, json.dumps(self.faults.plain(plain(turn))).encode()


def usage(turn: Said) -> Json:
    reasoning = len(turn.reasoning or "")
    made = reasoning + len(turn.content) + 1 + sum(len(a) for _, a in turn.calls)
    return {
        "prompt_tokens": 20,
        "completion_tokens": made,
        "total_tokens": 20 + made,
        "prompt_cache_hit_tokens": 0,
        "prompt_cache_miss_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def envelope(name: str) -> Json:
    return {"id": str(uuid.uuid4()), "object": name, "created": int(time.time()),
            "model": "mock", "system_fingerprint": "fp_mock"}  # fmt: skip


def tool_call(index: int, name: str, arguments: str) -> Json:
    return {"id": f"call_{index:02}_{'x' * 24}", "type": "function",
            "function": {"name": name, "arguments": arguments}}  # fmt: skip


def plain(turn: Said) -> Json:
    message: Json = {"role": "assistant", "content": turn.content}
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning
    if turn.calls:
        message["tool_calls"] = [tool_call(i, *call) for i, call in enumerate(turn.calls)]
    choice = {"index": 0, "message": message, "logprobs": None,
              "finish_reason": turn.finish_reason}  # fmt: skip
    return envelope("chat.completion") | {"choices": [choice], "usage": usage(turn)}


def chunks(turn: Said) -> list[Json]:
    head = envelope("chat.completion.chunk")
    first: Json = {"role": "assistant", "content": ""}
    if turn.reasoning is not None:
        first = {"role": "assistant", "content": None, "reasoning_content": ""}
    deltas: list[Json] = [first]
    deltas += [{"content": None, "reasoning_content": c} for c in turn.reasoning or ""]
    deltas += [{"content": character} for character in turn.content]
    for index, (name, arguments) in enumerate(turn.calls):
        start = {"index": index} | tool_call(index, name, "")
        deltas.append({"tool_calls": [start]})
        for piece in (arguments[:5], arguments[5:]):
            more = {"index": index, "function": {"arguments": piece}}
            deltas.append({"tool_calls": [more]})
    found: list[Json] = [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None}
        for delta in deltas
    ]
    last = {"index": 0, "delta": {"content": ""}, "finish_reason": turn.finish_reason}
    return [*found, head | {"choices": [last], "usage": usage(turn)}]


def stream_bytes(payloads: list[Json]) -> bytes:
    events = [f"data: {json.dumps(payload)}\n\n" for payload in payloads]
    return "".join([": keep-alive\n\n", *events, "data: [DONE]\n\n"]).encode()


class Wrong:
    """The same answer to everything."""

    def __init__(self, status: int, kind: str, body: bytes) -> None:
        self.status, self.kind, self.body = status, kind, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", self.kind.encode()), (b"server", b"wrong/1.0")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@contextmanager
def serving(app: Mock | Wrong) -> Iterator[str]:
    """The address of `app`, served by a thread on a free loopback port."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="critical", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
