"""Bad bodies: each gets the right status and parameter, and the server answers the next request."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.server.scripted import RunningServer
from tribody.core.request import SamplingParams
from tribody.server import limits
from tribody.server.limits import NUMBERS

CHAT = "/v1/chat/completions"
RAW = "/v1/completions"
ASK = [{"role": "user", "content": "x"}]
CHAT_BODY = {"model": "scripted", "messages": ASK, "temperature": 0, "max_tokens": 2}
RAW_BODY = {"model": "scripted", "prompt": "x", "temperature": 0, "max_tokens": 2}
RESPONSES = "/v1/responses"
BODIES: dict[str, dict[str, object]] = {
    CHAT: dict(CHAT_BODY),
    RAW: dict(RAW_BODY),
    RESPONSES: {"model": "scripted", "input": "x"},
}


def check_error(answer: httpx2.Response, status: int, param: str | None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert error["message"]
    assert len(answer.headers["x-request-id"]) == 32
    for leak in ("Traceback", "/work", ".py", "0x"):
        assert leak not in answer.text


def check_alive(http: httpx2.Client) -> None:
    assert http.post(CHAT, json=CHAT_BODY).status_code == 200


BAD_BYTES = {
    "empty": b"",
    "truncated": b'{"model": "scripted", "messages": [',
    "not json": b"hello",
    "array": b"[]",
    "string": b'"text"',
    "null": b"null",
    "number": b"17",
    "trailing": json.dumps({**CHAT_BODY, **RAW_BODY}).encode() + b"}",
    "two bodies": json.dumps({**CHAT_BODY, **RAW_BODY}).encode() * 2,
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(CHAT_BODY).encode(),
    "utf-16": json.dumps(CHAT_BODY).encode("utf-16"),
    "bad utf-8": b'{"model": "\xff\xfe", "messages": [], "prompt": "x"}',
    "bad utf-8 in an unknown field": b'{"model":"scripted","messages":[],"prompt":"","x":"\xff"}',
    "lone surrogate": b'{"model": "scripted", "messages": [{"role":"user","content":"\\ud800"}]}',
    "NaN": b'{"model": "scripted", "messages": [], "temperature": NaN}',
    "Infinity": b'{"model": "scripted", "messages": [], "temperature": Infinity}',
    "single quotes": b"{'model': 'scripted'}",
    "comment": b'{"model": "scripted" /* the best */}',
    "NUL": b"\x00",
    "deep array": b'{"model":"scripted","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"model":"scripted","x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "half a number": b'{"model": "scripted", "n": 1e}',
    "leading zero": b'{"model": "scripted", "n": 01}',
}


@pytest.mark.parametrize("name", BAD_BYTES)
@pytest.mark.parametrize("path", [CHAT, RAW])
def test_malformed_bodies(http: httpx2.Client, path: str, name: str) -> None:
    answer = http.post(path, content=BAD_BYTES[name])
    check_error(answer, 400, None)
    check_alive(http)


def message(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "x", **fields}]}


# (name, path, changed fields (None removes), status, param)
CASES: list[tuple[str, str, dict[str, object], int, str | None]] = [
    ("no model", CHAT, {"model": ...}, 400, "model"),
    ("model null", CHAT, {"model": None}, 400, "model"),
    ("model number", CHAT, {"model": 3}, 400, "model"),
    ("unknown model", CHAT, {"model": "gpt-9"}, 404, "model"),
    ("path as model", CHAT, {"model": "../../etc/passwd"}, 404, "model"),
    ("no messages", CHAT, {"messages": ...}, 400, "messages"),
    ("messages null", CHAT, {"messages": None}, 400, "messages"),
    ("messages empty", CHAT, {"messages": []}, 400, "messages"),
    ("messages string", CHAT, {"messages": "hi"}, 400, "messages"),
    ("message string", CHAT, {"messages": ["hi"]}, 400, "messages[0]"),
    ("no role", CHAT, {"messages": [{"content": "x"}]}, 400, "messages[0].role"),
    ("unknown role", CHAT, message(role="root"), 400, "messages[0].role"),
    ("role number", CHAT, message(role=1), 400, "messages[0].role"),
    ("content null", CHAT, message(content=None), 400, "messages[0].content"),
    ("content number", CHAT, message(content=5), 400, "messages[0].content"),
    ("content object", CHAT, message(content={}), 400, "messages[0].content"),
    (
        "empty assistant",
        CHAT,
        {"messages": [{"role": "assistant", "content": None}]},
        400,
        "messages[0].content",
    ),
    (
        "image",
        CHAT,
        message(content=[{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]),
        400,
        "messages[0].content[0]",
    ),
    ("part no type", CHAT, message(content=[{"text": "x"}]), 400, "messages[0].content[0].type"),
    ("part no text", CHAT, message(content=[{"type": "text"}]), 400, "messages[0].content[0]"),
    ("tool without id", CHAT, message(role="tool"), 400, "messages[0].tool_call_id"),
    ("long name", CHAT, message(name="n" * 1000), 400, "messages[0].name"),
    (
        "tool_calls string",
        CHAT,
        message(role="assistant", tool_calls="f"),
        400,
        "messages[0].tool_calls",
    ),
    ("stream number", CHAT, {"stream": 1}, 400, "stream"),
    ("stream string", CHAT, {"stream": "true"}, 400, "stream"),
    (
        "stream_options alone",
        CHAT,
        {"stream_options": {"include_usage": True}},
        400,
        "stream_options",
    ),
    ("stream_options list", CHAT, {"stream_options": []}, 400, "stream_options"),
    ("temperature string", CHAT, {"temperature": "1"}, 400, "temperature"),
    ("temperature bool", CHAT, {"temperature": True}, 400, "temperature"),
    ("temperature 1e400", CHAT, {"temperature": "RAW:1e400"}, 400, "temperature"),
    ("n float", CHAT, {"n": 1.5}, 400, "n"),
    ("n a million", CHAT, {"n": 1_000_000}, 400, "n"),
    ("n 2^63", CHAT, {"n": 2**63}, 400, "n"),
    ("n huge", CHAT, {"n": 10**300}, 400, "n"),
    ("n true", CHAT, {"n": True}, 400, "n"),
    ("max_tokens 0", CHAT, {"max_tokens": 0}, 400, "max_tokens"),
    ("max_tokens -1", CHAT, {"max_tokens": -1}, 400, "max_tokens"),
    ("max_tokens 2^63", CHAT, {"max_tokens": 2**63}, 400, "max_tokens"),
    ("max_tokens beyond context", CHAT, {"max_tokens": 100_000}, 400, "messages"),
    ("both max differ", CHAT, {"max_completion_tokens": 3}, 400, "max_tokens"),
    ("logprobs number", CHAT, {"logprobs": 5}, 400, "logprobs"),
    ("top_logprobs alone", CHAT, {"top_logprobs": 3}, 400, "top_logprobs"),
    (
        "top_logprobs a million",
        CHAT,
        {"logprobs": True, "top_logprobs": 10**6},
        400,
        "top_logprobs",
    ),
    ("stop empty", CHAT, {"stop": ""}, 400, "stop"),
    ("stop with empty", CHAT, {"stop": ["a", ""]}, 400, "stop"),
    ("17 stops", CHAT, {"stop": ["a"] * 17}, 400, "stop"),
    ("10000 stops", CHAT, {"stop": ["a"] * 10_000}, 400, "stop"),
    ("long stop", CHAT, {"stop": "a" * 5000}, 400, "stop"),
    ("stop number", CHAT, {"stop": 3}, 400, "stop"),
    ("stop ids unknown", CHAT, {"stop_token_ids": [9999]}, 400, "stop_token_ids"),
    ("stop ids negative", CHAT, {"stop_token_ids": [-1]}, 400, "stop_token_ids"),
    ("stop ids many", CHAT, {"stop_token_ids": [1] * 1000}, 400, "stop_token_ids"),
    ("stop ids strings", CHAT, {"stop_token_ids": ["1"]}, 400, "stop_token_ids[0]"),
    ("bias list", CHAT, {"logit_bias": []}, 400, "logit_bias"),
    ("bias text key", CHAT, {"logit_bias": {"foo": 0}}, 400, "logit_bias"),
    ("bias unknown id", CHAT, {"logit_bias": {"99999": 1}}, 400, "logit_bias"),
    ("bias negative id", CHAT, {"logit_bias": {"-1": 1}}, 400, "logit_bias"),
    ("bias Arabic digits", CHAT, {"logit_bias": {"٣": 1}}, 400, "logit_bias"),
    ("bias too large", CHAT, {"logit_bias": {"1": 101}}, 400, "logit_bias"),
    ("bias string value", CHAT, {"logit_bias": {"1": "5"}}, 400, "logit_bias[...]"),
    (
        "bias 100000 ids",
        CHAT,
        {"logit_bias": {str(i): 1 for i in range(100_000)}},
        400,
        "logit_bias",
    ),
    ("seed float", CHAT, {"seed": 1.5}, 400, "seed"),
    ("seed 2^63", CHAT, {"seed": 2**63}, 400, "seed"),
    ("user number", CHAT, {"user": 5}, 400, "user"),
    ("user long", CHAT, {"user": "ü" * 513}, 400, "user"),
    ("user_id long", CHAT, {"user_id": "u" * 513}, 400, "user_id"),
    ("json mode", CHAT, {"response_format": {"type": "json_object"}}, 400, "messages"),
    ("ignore_eos text", CHAT, {"ignore_eos": "no"}, 400, "ignore_eos"),
    ("no prompt", RAW, {"prompt": ...}, 400, "prompt"),
    ("prompt null", RAW, {"prompt": None}, 400, "prompt"),
    ("prompt number", RAW, {"prompt": 1}, 400, "prompt"),
    ("prompt empty", RAW, {"prompt": ""}, 400, "prompt"),
    ("prompt no prompts", RAW, {"prompt": []}, 400, "prompt"),
    ("prompt empty ids", RAW, {"prompt": [[]]}, 400, "prompt"),
    ("prompt mixed", RAW, {"prompt": ["a", 1]}, 400, "prompt"),
    ("prompt object", RAW, {"prompt": [{}]}, 400, "prompt[0]"),
    ("prompt unknown id", RAW, {"prompt": [1, 5000]}, 400, "prompt"),
    ("prompt negative id", RAW, {"prompt": [[-1]]}, 400, "prompt"),
    ("prompt huge id", RAW, {"prompt": [2**70]}, 400, "prompt"),
    ("129 prompts", RAW, {"prompt": ["x"] * 129}, 400, "prompt"),
    ("prompts times n", RAW, {"prompt": ["x"] * 64, "n": 3}, 400, "n"),
    ("prompt too long", RAW, {"prompt": [0] * 1600}, 400, "prompt"),
    ("suffix", RAW, {"suffix": "end"}, 400, "suffix"),
    ("best_of", RAW, {"best_of": 4}, 400, "best_of"),
    ("best_of a million", RAW, {"best_of": 10**6}, 400, "best_of"),
    ("logprobs true", RAW, {"logprobs": True}, 400, "logprobs"),
    ("logprobs 21", RAW, {"logprobs": 21}, 400, "logprobs"),
    ("echo with logprobs", RAW, {"echo": True, "logprobs": 1}, 400, "echo"),
    ("echo text", RAW, {"echo": "yes"}, 400, "echo"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_bad_fields(
    http: httpx2.Client, case: tuple[str, str, dict[str, object], int, str]
) -> None:
    _, path, changes, status, param = case
    base = CHAT_BODY if path == CHAT else RAW_BODY
    body = {name: value for name, value in {**base, **changes}.items() if value is not ...}
    text = json.dumps(body).replace('"RAW:1e400"', "1e400")
    check_error(http.post(path, content=text), status, param)
    check_alive(http)


def numeric_cases() -> list[tuple[str, str, float, bool]]:
    """(path, field, value, good) just inside and outside of every bound of the limits table."""
    cases: list[tuple[str, str, float, bool]] = []
    integers = {"top_k", "seed", "top_logprobs", "logprobs", "max_tokens", "max_completion_tokens",
                "max_output_tokens", "n", "best_of"}  # fmt: skip
    paths = {"logprobs": RAW, "best_of": RAW, "max_output_tokens": RESPONSES}
    for name, limit in NUMBERS.items():
        path = paths.get(name, CHAT)
        step = 1 if name in integers else 0.001
        low = int(limit.minimum) if name in integers else limit.minimum
        high = int(limit.maximum) if name in integers else limit.maximum
        cases.append((path, name, low - step, False))
        cases.append((path, name, high + step, False))
        # What is inside the table's bounds may still not fit this model or its other fields.
        if not name.startswith("max_") and name not in ("n", "best_of"):
            cases.append((path, name, high, True))
            cases.append((path, name, low, not limit.exclusive_minimum))
    return cases


@pytest.mark.parametrize("case", numeric_cases(), ids=lambda c: f"{c[1]}={c[2]}")
def test_bounds_of_every_number(http: httpx2.Client, case: tuple[str, str, float, bool]) -> None:
    path, name, value, good = case
    body = {**BODIES[path], name: value}
    if name == "top_logprobs":
        body["logprobs"] = True
    if name == "max_completion_tokens":
        del body["max_tokens"]
    answer = http.post(path, json=body)
    if good:
        assert answer.status_code == 200, answer.text
    else:
        check_error(answer, 400, name)


def test_null_means_not_given(http: httpx2.Client) -> None:
    names = [*NUMBERS, "stop", "logit_bias", "user", "stream", "stream_options", "logprobs"]
    body = {"model": "scripted", "messages": ASK, **dict.fromkeys(names)}
    assert http.post(CHAT, json=body).status_code == 200


def test_duplicate_key_last_one_counts(http: httpx2.Client) -> None:
    body = b'{"model":"nope","model":"scripted","messages":[{"role":"user","content":"x"}]}'
    assert http.post(CHAT, content=body).status_code == 200


def test_routes_and_methods(http: httpx2.Client) -> None:
    check_error(http.get("/nowhere"), 404, None)
    check_error(http.get("/v1/chat/completions/"), 404, None)
    check_error(http.get("/v1//models"), 404, None)
    check_error(http.get(CHAT), 405, None)
    check_error(http.delete("/v1/models"), 405, None)
    check_error(http.get("/v1/models/nope"), 404, "model")
    check_error(http.get("/v1/models/%2e%2e%2fetc"), 404, "model")
    assert http.head("/health").status_code == 200


def test_body_limit(
    http: httpx2.Client, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BODY_BYTES", 100_000)
    large = json.dumps({**CHAT_BODY, "x": "y" * 100_000}).encode()
    check_error(http.post(CHAT, content=large), 413, None)
    chunks = (large[i : i + 10_000] for i in range(0, len(large), 10_000))
    check_error(http.post(CHAT, content=chunks), 413, None)
    check_alive(http)


def test_limit_of_arrays_and_objects(http: httpx2.Client) -> None:
    """In what is read and what is not; brackets in text are none."""
    most = limits.MAX_CONTAINERS
    for odd in ("[" * 50 + "]" * 50, '{"a":[{}]}'):
        body = f'{{"model": "scripted", "odd": [{",".join([odd] * (most // 3))}]}}'
        check_error(http.post(CHAT, content=body), 413, None)
    message = {"role": "user", "content": "[{" * most}
    answer = http.post(CHAT, json={"model": "scripted", "messages": [message]})
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    check_alive(http)


def send_raw(url: str, data: bytes) -> bytes:
    """What comes back for raw bytes until the server closes the connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def test_header_limits(running: RunningServer, http: httpx2.Client) -> None:
    long_header = b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"
    assert send_raw(running.url, long_header).startswith(b"HTTP/1.1 431 ")
    endless = b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000
    assert send_raw(running.url, endless).startswith(b"HTTP/1.1 431 ")
    many = b"GET /health HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(5000)) + b"\r\n"
    assert send_raw(running.url, many).startswith(b"HTTP/1.1 431 ")
    long_path = b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert send_raw(running.url, long_path).startswith(b"HTTP/1.1 431 ")
    check_alive(http)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_broken_http(running: RunningServer, http: httpx2.Client, data: bytes) -> None:
    received = send_raw(running.url, data)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), received
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert b"x-request-id: " in head
    check_alive(http)


def test_slow_headers_and_bodies_are_cut(
    running: RunningServer, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.05)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    assert send_raw(running.url, b"GET /health HT").startswith(b"HTTP/1.1 408 ")
    assert send_raw(running.url, b"") == b""
    slow = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"
    assert send_raw(running.url, slow).startswith(b"HTTP/1.1 408 ")


def test_limits_are_consistent() -> None:
    for name, limit in NUMBERS.items():
        assert limit.minimum < limit.maximum, name
        default = getattr(SamplingParams(max_tokens=1), name, None)
        assert default is None or limit.holds(default), name
        assert not replace(limit, maximum=limit.minimum - 1).holds(limit.minimum), name
