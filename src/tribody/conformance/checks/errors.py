"""Errors: statuses, bodies, request ids, and nothing about the inside (contract 7)."""

from __future__ import annotations

import re
from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.target import Target, function
from tribody.conformance.verdict import expect, expect_equal
from tribody.conformance.wire import Answer

ID_HEADERS = ("x-request-id", "x-deepseek-request-id")
INSIDE = re.compile(
    rb"Traceback \(most recent|File \"|\.py\b|/home/|/usr/|/root/|/site-packages|"
    rb"0x[0-9a-f]{6,}|\bSELECT \b|\bsqlite|<class '|Error\(\)"
)
MAX_ERROR_BYTES = 4096
DEPTH = 10_000

BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"model": "x", "messages": [',
    "trailing": b'{"model": "x"} trailing',
    "single quotes": b"{'model': 'x'}",
    "nan": b'{"model": "x", "messages": [], "temperature": NaN}',
    "infinity": b'{"model": "x", "messages": [], "temperature": Infinity}',
    "1e400": b'{"model": "x", "messages": [{"role": "user", "content": ""}], "temperature": 1e400}',
    "bad utf-8": b'{"model": "\xff\xfe", "messages": []}',
    "lone surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "\\udfff"}]}',
    "nul": b'{"model": "x\x00"}',
    "deep": b'{"model": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "deep objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "bytes": bytes(range(256)),
    "comment": b'{"model": "x" /* no */}',
    "huge number": b'{"model": "x", "messages": [], "max_tokens": ' + b"9" * 5000 + b"}",
}
NOT_OBJECTS = (b"[]", b'"text"', b"5", b"null", b"true")


def _bad_body(name: str, t: Target) -> None:
    answer = t.client.send("POST", t.chat_path, content=BAD_BODIES[name])
    answer.refused(400, 413, 422)
    answer.json().at("error", "message").text()


def not_objects(t: Target) -> None:
    for content in NOT_OBJECTS:
        answer = t.client.send("POST", t.chat_path, content=content)
        expect(answer.status in (400, 422), f"400 or 422 for {content!r}", answer.status)


def duplicate_keys(t: Target) -> None:
    """Either is taken or it is refused; never a 5xx."""
    body = b'{"model": "x", "model": "y", "messages": [], "messages": []}'
    status = t.client.send("POST", t.chat_path, content=body).status
    expect(status < 500, "below 500", status)


def many_keys(t: Target) -> None:
    fields = ", ".join(f'"k{i}": {i}' for i in range(100_000)).encode()
    body = b'{"model": "x", "messages": [], ' + fields + b"}"
    status = t.client.send("POST", t.chat_path, content=body).status
    expect(status < 500, "below 500", status)


def byte_order_mark(t: Target) -> None:
    answer = t.client.send("POST", t.chat_path, content=b"\xef\xbb\xbf{}")
    answer.refused()


def _wrong(t: Target) -> list[Answer]:
    """Requests that are wrong in many ways, asked once."""

    def ask() -> list[Answer]:
        send = t.client.send
        return [
            t.chat("x", temperature=9),
            t.chat("x", model="no-such-model"),
            t.chat("x", max_tokens="many"),
            t.chat("x", tools=[function("bad name")]),
            t.post({}),
            t.post({"model": t.model}),
            send("POST", t.chat_path, content=b"{bad"),
            send("POST", t.chat_path, content=b"[]"),
            send("GET", "/v1/no-such-path"),
            send("PUT", t.chat_path, payload={}),
            send("GET", "/v1/models/no-such-model"),
        ]

    return t.keep("wrong", ask)


def body_shape(t: Target) -> None:
    for answer in _wrong(t):
        error = answer.json().at("error")
        expect(error.at("message").text(), "a message", "an empty one")
        error.at("type").text()
        for name in ("param", "code"):
            expect(error.has(name), f"{name} in the error (it may be null)", error.raw)


def content_type(t: Target) -> None:
    for answer in _wrong(t):
        found = answer.header("content-type")
        expect(found.startswith("application/json"), "application/json", found or "none")


def statuses(t: Target) -> None:
    for answer in _wrong(t):
        expect(400 <= answer.status < 500, "a status of 4xx for a wrong request", answer.status)


def no_inside(t: Target) -> None:
    for answer in _wrong(t):
        found = INSIDE.search(answer.body)
        expect(found is None, "nothing of the inside in an error", answer.body)


def short_messages(t: Target) -> None:
    """A megabyte of nonsense is not repeated to whoever sent it."""
    long = "x" * 2**20
    for fields in ({"model": long}, {"tool_choice": long}, {"user_id": long}, {"stop": [long]}):
        body = t.chat("x", **fields).body
        expect(len(body) < MAX_ERROR_BYTES, f"an error of under {MAX_ERROR_BYTES} bytes", len(body))


def names_param(t: Target) -> None:
    found = t.chat("x", temperature=9).refused().json().at("error")
    text = f"{found.maybe('param').raw} {found.maybe('message').raw}"
    expect("temperature" in text, "temperature named in the error", found.raw)


def unknown_model(t: Target) -> None:
    answer = t.chat("x", model="no-such-model")
    answer.expect_status(400, 404)
    answer.json().at("error", "type").is_("invalid_request_error")


def type_of_400(t: Target) -> None:
    answer = t.chat("x", temperature=9)
    answer.refused().json().at("error", "type").is_("invalid_request_error")


def too_long(t: Target) -> None:
    """More than any context: 400 (or 413), and a sentence that says so."""
    text = "word " * 2_000_000
    answer = t.chat(text)
    answer.expect_status(400, 413, 422)
    if answer.status != 413:
        expect("maximum context length" in answer.message,
               "a sentence with 'maximum context length'", answer.message)  # fmt: skip


def _request_id(answer: Answer) -> str:
    return next((answer.header(name) for name in ID_HEADERS if answer.header(name)), "")


def id_on_success(t: Target) -> None:
    found = _request_id(t.plain_answer())
    expect(found, "an x-request-id header", dict(t.plain_answer().headers))


def id_on_error(t: Target) -> None:
    for answer in _wrong(t):
        expect(_request_id(answer), f"x-request-id on the {answer.status}", answer.what)


def id_on_stream(t: Target) -> None:
    expect(_request_id(t.streamed().answer), "an x-request-id header", "none")


def ids_differ(t: Target) -> None:
    ids = [_request_id(answer) for answer in _wrong(t)]
    expect_equal(len(set(ids)), len(ids), "the number of different request ids")


def path_of_405(t: Target) -> None:
    answer = t.client.send("PUT", t.chat_path, payload={})
    answer.expect_status(404, 405)
    answer.json().at("error", "message").text()


SECTION = Section(
    "errors",
    "Errors",
    (
        *(
            Check(f"errors.body-{name.replace(' ', '-')}", f"a body that is wrong ({name})",
                  partial(_bad_body, name))
            for name in BAD_BODIES
        ),
        Check("errors.not-object", "JSON that is no object", not_objects),
        Check("errors.duplicate-keys", "keys that come twice are no 5xx", duplicate_keys),
        Check("errors.many-keys", "100,000 unknown keys are no 5xx", many_keys),
        Check("errors.bom", "a byte order mark", byte_order_mark),
        Check("errors.status", "a wrong request is a 4xx", statuses),
        Check("errors.shape", "error has message, type, param and code", body_shape),
        Check("errors.content-type", "errors are application/json", content_type),
        Check("errors.type", "its type is invalid_request_error", type_of_400),
        Check("errors.param", "the error names the parameter", names_param),
        Check("errors.unknown-model", "an unknown model: 400 or 404", unknown_model),
        Check("errors.too-long", "a prompt beyond the context says so", too_long),
        Check("errors.inside", "no traceback, path, address or SQL", no_inside),
        Check("errors.bounded", "what was sent is not repeated at length", short_messages),
        Check("errors.request-id", "answers carry x-request-id", id_on_success),
        Check("errors.request-id-error", "errors carry it too", id_on_error),
        Check("errors.request-id-stream", "and streams", id_on_stream),
        Check("errors.request-id-unique", "every request has its own", ids_differ),
        Check("errors.method", "a wrong method has an error body", path_of_405),
    ),
)  # fmt: skip
