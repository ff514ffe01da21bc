"""What HTTP allows and clients rarely do: each has an answer that is written down here."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time

import httpx2
import pytest

from tests.server.scripted import RunningServer
from tests.server.test_bad_requests import send_raw
from tests.server.test_mutated import send
from tribody.server import limits
from tribody.server.routes import ROUTES

BODY = json.dumps(
    {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
).encode()
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(BODY)
CLOSE = b"Connection: close\r\n\r\n"


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})", received)]


def test_a_method_that_a_route_has_not_is_405_and_says_which_it_has(http: httpx2.Client) -> None:
    for path in {path for route in ROUTES for path in route.paths}:
        shown = re.sub(r"\{\w+(:path)?\}", "x", path)
        has = {route.method for route in ROUTES if path in route.paths}
        has |= {"HEAD"} if "GET" in has else set()
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - has:
            answer = http.request(method, shown)
            assert answer.status_code == 405, (method, path, answer.text)
            assert set(answer.headers["allow"].split(", ")) == has, (method, path)
            assert "access-control-allow-origin" not in answer.headers


def test_head_has_no_body(running: RunningServer) -> None:
    received = send_raw(running.url, b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n" + CLOSE)
    head, _, body = received.partition(b"\r\n\r\n")
    assert statuses(head) == [200]
    assert body == b""


def test_continue_is_sent_to_who_expects_it(running: RunningServer) -> None:
    received = send_raw(running.url, CHAT + b"Expect: 100-continue\r\n" + CLOSE + BODY)
    assert statuses(received) == [100, 200]


def test_http_1_0_is_answered_and_closed(running: RunningServer) -> None:
    received = send_raw(running.url, CHAT.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + BODY)
    assert statuses(received) == [200]
    assert b"transfer-encoding" not in received.lower()


def test_pipelined_requests_are_answered_in_their_order(running: RunningServer) -> None:
    models = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
    received = send_raw(running.url, CHAT + b"\r\n" + BODY + models + b"\r\n" + models + CLOSE)
    assert statuses(received) == [200, 200, 200]
    assert received.index(b"chat.completion") < received.index(b'"object":"list"')


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
    ],
)
def test_nothing_is_upgraded(running: RunningServer, http: httpx2.Client, upgrade: bytes) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n"
    (received,) = asyncio.run(send(running.url, [request], whole=True))
    assert statuses(received) == [200]  # as if it had not been asked for
    assert http.get("/health").status_code == 200


def test_unknown_methods_are_refused(running: RunningServer) -> None:
    assert statuses(send_raw(running.url, b"BREW /pot HTTP/1.1\r\nHost: x\r\n" + CLOSE)) == [400]


def test_many_small_headers_are_let_through_up_to_the_bytes(running: RunningServer) -> None:
    lines = b"".join(b"X%d: y\r\n" % i for i in range(101))
    received = send_raw(running.url, b"GET /health HTTP/1.1\r\nHost: x\r\n" + lines + CLOSE)
    assert statuses(received) == [200]


def test_floods_are_refused_before_they_are_read(running: RunningServer) -> None:
    """Within a second: a header and a body beyond their limits, with a length and without."""
    too_long = b"X: " + b"a" * limits.MAX_HEADER_BYTES
    lengthy = CHAT.replace(b"%d" % len(BODY), b"%d" % (limits.MAX_BODY_BYTES + 1))
    for data, status in [(CHAT + too_long, 431), (lengthy + CLOSE, 413)]:
        started = time.monotonic()
        assert statuses(send_raw(running.url, data)) == [status]
        assert time.monotonic() - started < 1


def test_compressed_bodies_are_not_unpacked(http: httpx2.Client) -> None:
    """So there is nothing for a bomb to blow up."""
    bomb = gzip.compress(b" " * 2**24 + BODY)
    headers = {"Content-Encoding": "gzip"}
    answer = http.post("/v1/chat/completions", content=bomb, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"
