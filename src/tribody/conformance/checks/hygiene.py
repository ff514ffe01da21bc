"""Connections: sizes, malformed HTTP, methods that nobody needs (contract 1; RFC 9112)."""

from __future__ import annotations

import gzip
import json
from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.target import Target
from tribody.conformance.verdict import Skipped, expect
from tribody.conformance.wire import raw_status

BODY_LIMIT = 48 * 2**20
HEADER_LIMIT = 16 * 2**10
CLOSE = "Connection: close"
JSON = "Content-Type: application/json"


def _alive(t: Target) -> None:
    t.client.send("GET", t.keep("alive path", lambda: _list_path(t))).expect_status(200)


def _list_path(t: Target) -> str:
    return "/v1/models" if t.client.send("GET", "/v1/models").status == 200 else "/models"


def _status(t: Target, request: bytes) -> int:
    return raw_status(t.client.raw(request))


def _post(t: Target, body: bytes, *lines: str) -> bytes:
    return t.client.raw_head("POST", t.chat_path, JSON, *lines) + body


def _chat_bytes(t: Target) -> bytes:
    return json.dumps(t.body(t.prompts.say("Yes."), max_tokens=8)).encode()


def body_limit(t: Target) -> None:
    """48 MiB and a byte more are announced; nobody has to read them."""
    request = _post(t, b"{", f"Content-Length: {BODY_LIMIT + 1}", CLOSE)
    status = _status(t, request)
    expect(status == 413, "413 for a body of 48 MiB + 1", status or "no answer")
    _alive(t)


def body_of_megabytes(t: Target) -> None:
    """Below the limit a large body is read: unknown fields are tolerated."""
    answer = t.chat(t.prompts.say("Yes."), a_field_nobody_knows="x" * (4 * 2**20))
    expect(answer.status == 200, "200 for a body of 4 MiB", answer.status)


def header_limit(t: Target) -> None:
    head = t.client.raw_head("GET", "/v1/models", f"X-Long: {'x' * HEADER_LIMIT}", CLOSE)
    status = _status(t, head)
    expect(status in (431, 400), "431 for headers of more than 16 KiB", status or "no answer")
    _alive(t)


def long_path(t: Target) -> None:
    status = _status(t, t.client.raw_head("GET", f"/v1/{'x' * HEADER_LIMIT}", CLOSE))
    expect(status in (400, 404, 414, 431), "a 4xx for a path of 16 KiB", status or "no answer")


def _malformed(name: str, t: Target) -> None:
    """400 or a closed connection; never a 200, never a 5xx; and the server lives."""
    status = _status(t, _malformed_requests(t)[name])
    expect(status == 0 or 400 <= status < 500 or status == 501, "a 4xx or a closed connection",
           status)  # fmt: skip
    _alive(t)


def _malformed_requests(t: Target) -> dict[str, bytes]:
    body = _chat_bytes(t)
    size = f"Content-Length: {len(body)}"
    return {
        "no-http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "bad-line": b"GET\r\n\r\n",
        "nul-header": t.client.raw_head("GET", "/v1/models", "X-Nul: a\0b", CLOSE),
        "two-lengths": _post(t, body, size, f"Content-Length: {len(body) + 5}", CLOSE),
        "bad-length": _post(t, body, "Content-Length: five", CLOSE),
        "minus-length": _post(t, body, "Content-Length: -5", CLOSE),
        "chunked-and-length": _post(
            t, b"5\r\n{bad}\r\n0\r\n\r\n", size, "Transfer-Encoding: chunked", CLOSE
        ),
        "bad-chunk": _post(t, b"zz\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked", CLOSE),
        "huge-chunk": _post(t, b"7fffffffffffffff\r\n{}", "Transfer-Encoding: chunked", CLOSE),
        "http-9": b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n",
    }


MALFORMED = {
    "no-http": "bytes that are no HTTP",
    "bad-line": "a request line that is none",
    "nul-header": "a NUL in a header",
    "two-lengths": "two Content-Lengths that differ",
    "bad-length": "a Content-Length that is no number",
    "minus-length": "a Content-Length below 0",
    "chunked-and-length": "Transfer-Encoding and Content-Length at once, with a broken body",
    "bad-chunk": "a chunk size that is no number",
    "huge-chunk": "a chunk of 2^63 bytes",
    "http-9": "a version of HTTP that is none",
}


def chunked_body(t: Target) -> None:
    body = _chat_bytes(t)
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:8], body[8:]))
    status = _status(t, _post(t, pieces + b"0\r\n\r\n", "Transfer-Encoding: chunked", CLOSE))
    expect(status == 200, "200 for a chunked body", status or "no answer")


def expect_continue(t: Target) -> None:
    body = _chat_bytes(t)
    request = _post(t, body, f"Content-Length: {len(body)}", "Expect: 100-continue", CLOSE)
    received = t.client.raw(request)
    interim, _, rest = received.partition(b"\r\n\r\n")
    status = raw_status(rest if raw_status(interim) == 100 else received)
    expect(status in (200, 417), "200 (or 417) at the end", status or "no answer")


def http_1_0(t: Target) -> None:
    head = t.client.raw_head("GET", "/v1/models").replace(b"HTTP/1.1", b"HTTP/1.0")
    status = _status(t, head)
    expect(status in (200, 505), "200 (or 505) for HTTP/1.0", status or "no answer")


def pipelined(t: Target) -> None:
    """Two requests in one packet have two answers, in order."""
    one = t.client.raw_head("GET", "/v1/models")
    two = t.client.raw_head("GET", "/v1/no-such-path", CLOSE)
    received = t.client.raw(one + two)
    count = received.count(b"HTTP/1.1 ")
    expect(count == 2, "two answers to two pipelined requests", count)
    expect(b"HTTP/1.1 404" in received.split(b"HTTP/1.1 ", 2)[-1].join([b"HTTP/1.1 ", b""]),
           "the second answer to be the 404", received[-200:])  # fmt: skip


def _method(method: str, t: Target) -> None:
    answer = t.client.send(method, t.chat_path)
    expect(answer.status < 500 or answer.status == 501, "below 500", answer.status)
    expect(method != "TRACE" or answer.status != 200, "no TRACE", answer.status)


def head_has_no_body(t: Target) -> None:
    answer = t.client.send("HEAD", "/v1/models")
    answer.expect_status(200, 404, 405)
    expect(not answer.body, "no body for HEAD", answer.body)


def gzipped(t: Target) -> None:
    body = gzip.compress(_chat_bytes(t))
    headers = {**t.client.headers, "content-encoding": "gzip"}
    answer = t.client.send("POST", t.chat_path, content=body, headers=headers)
    expect(answer.status in (200, 400, 415, 422), "200, 400, 415 or 422", answer.status)


def wrong_content_type(t: Target) -> None:
    headers = {**t.client.headers, "content-type": "text/plain"}
    answer = t.client.send("POST", t.chat_path, content=_chat_bytes(t), headers=headers)
    expect(answer.status in (200, 400, 415, 422), "200, 400, 415 or 422", answer.status)


def websocket(t: Target) -> None:
    head = t.client.raw_head("GET", t.chat_path, "Connection: Upgrade", "Upgrade: websocket",
                             "Sec-WebSocket-Version: 13",
                             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
    status = _status(t, head)
    expect(status != 101 and status < 500, "a WebSocket to be refused", status)


def keep_alive(t: Target) -> None:
    """A connection survives an error of the application."""
    body = b"{bad"
    one = _post(t, body, f"Content-Length: {len(body)}")
    two = t.client.raw_head("GET", "/v1/models", CLOSE)
    received = t.client.raw(one + two)
    if received.lower().split(b"\r\n\r\n")[0].find(b"connection: close") >= 0:
        raise Skipped("the server closes after an error, and says so")
    expect(received.count(b"HTTP/1.1 ") == 2, "an answer after the error", received[:200])


def server_header(t: Target) -> None:
    """Nothing that names versions of what is inside."""
    for name in ("server", "x-powered-by"):
        found = t.plain_answer().header(name)
        digits = any(character.isdigit() for character in found)
        expect(not digits, f"no version in the header {name}", found)


def still_alive(t: Target) -> None:
    t.chat(t.prompts.say("Yes.")).ok()


SECTION = Section(
    "hygiene",
    "Connections",
    (
        Check("hygiene.body-limit", "a body of 48 MiB + 1 is a 413, unread", body_limit),
        Check("hygiene.body-large", "a body of 4 MiB is read", body_of_megabytes),
        Check("hygiene.header-limit", "headers beyond 16 KiB are a 431", header_limit),
        Check("hygiene.long-path", "a path of 16 KiB is a 4xx", long_path),
        *(
            Check(f"hygiene.{name}", f"{what}: refused", partial(_malformed, name))
            for name, what in MALFORMED.items()
        ),
        Check("hygiene.chunked", "a chunked body is read", chunked_body),
        Check("hygiene.continue", "Expect: 100-continue", expect_continue),
        Check("hygiene.http-1.0", "HTTP/1.0", http_1_0),
        Check("hygiene.pipelined", "two requests in one packet", pipelined),
        Check("hygiene.keep-alive", "a connection survives an error", keep_alive),
        Check("hygiene.head", "HEAD has no body", head_has_no_body),
        *(
            Check(f"hygiene.{method.lower()}", f"{method} does no harm", partial(_method, method))
            for method in ("OPTIONS", "TRACE", "PATCH")
        ),
        Check("hygiene.gzip", "a compressed body is read or refused", gzipped),
        Check("hygiene.content-type", "JSON under another content-type is read or refused",
              wrong_content_type),
        Check("hygiene.websocket", "a WebSocket is refused", websocket),
        Check("hygiene.versions", "headers name no versions", server_header),
        Check("hygiene.alive", "after all this the server answers", still_alive),
    ),
)  # fmt: skip
