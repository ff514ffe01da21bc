"""One fault at a time in a server that keeps the contract: the named check, and it alone of those
that look at that answer, says so."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.mock_model import Json
from tests.conformance.mock_server import KEY, Faults, Mock, serving
from tribody.conformance.runner import run_check
from tribody.conformance.suite import SECTIONS
from tribody.conformance.target import Target
from tribody.conformance.wire import Client

CHECKS = {check.id: check for section in SECTIONS for check in section.checks}


@pytest.fixture(scope="module")
def mock() -> Iterator[tuple[Mock, str]]:
    app = Mock()
    with serving(app) as url:
        yield app, url


def outcome(mock: tuple[Mock, str], check: str, faults: Faults) -> str:
    """The status of one check against the mock with `faults`, which set in after the probes."""
    app, url = mock
    app.faults = Faults()
    with Client(url, KEY) as client:
        target = Target(client, "2026")
        for need in CHECKS[check].needs:
            assert target.missing(need) is None
        target.kept = {k: v for k, v in target.kept.items() if k.startswith(("path", "need"))}
        app.faults = faults
        return run_check(target, "any", CHECKS[check]).status


def put(*path: str | int, value: object) -> Callable[[Json], object]:
    """The answer with `value` at `path`."""

    def change(answer: Json) -> Json:
        here: Any = answer
        for step in path[:-1]:
            here = here[step]
        here[path[-1]] = value
        return answer

    return change


def drop(*path: str | int) -> Callable[[Json], object]:
    def change(answer: Json) -> Json:
        here: Any = answer
        for step in path[:-1]:
            here = here[step]
        del here[path[-1]]
        return answer

    return change


MESSAGE = ("choices", 0, "message")
CALL = (*MESSAGE, "tool_calls", 0)

PLAIN: dict[str, Callable[[Json], object]] = {
    "plain.id": put("id", value="chatcmpl-930c60df"),
    "plain.ids-differ": put("id", value="0" * 32),
    "plain.object": put("object", value="chat"),
    "plain.created": put("created", value=1_700_000_000_000),
    "plain.model": put("model", value="somebody-else"),
    "plain.fingerprint": drop("system_fingerprint"),
    "plain.choice": put("choices", 0, "index", value=1),
    "plain.role": put(*MESSAGE, "role", value="user"),
    "plain.content": put(*MESSAGE, "content", value="The sky is green."),
    "plain.stop": put("choices", 0, "finish_reason", value="eos"),
    "plain.logprobs-null": put("choices", 0, "logprobs", value={"content": []}),
    "plain.no-reasoning": put(*MESSAGE, "reasoning_content", value="Hm."),
    "plain.no-tool-calls": put(*MESSAGE, "tool_calls", value=[{}]),
    "plain.usage-sums": put("usage", "total_tokens", value=5),
    "plain.usage-cache": drop("usage", "prompt_cache_hit_tokens"),
    "plain.usage-reasoning": put("usage", "completion_tokens_details", "reasoning_tokens", value=3),
    "plain.unicode": put(*MESSAGE, "content", value="na\ufffdve"),
    "thinking.parts": drop(*MESSAGE, "reasoning_content"),
    "thinking.tags": put(*MESSAGE, "content", value="</think>It is five."),
    "thinking.usage": put("usage", "completion_tokens_details", "reasoning_tokens", value=0),
    "thinking.disabled": put(*MESSAGE, "reasoning_content", value="Hm."),
    "tools.shape": drop(*CALL, "type"),
    "tools.id": put(*CALL, "id", value="chatcmpl-tool-1"),
    "tools.finish": put("choices", 0, "finish_reason", value="stop"),
    "tools.markup": put(*MESSAGE, "content", value="<tool_call>"),
    "tools.arguments": put(*CALL, "function", "arguments", value='{"city": "Rome"}'),
    "tools.none": put(*MESSAGE, "tool_calls", value=[{}]),
    "endpoints.chat": put("object", value="text_completion"),
    "request.stop-string": put(*MESSAGE, "content", value="one two three"),
    "concurrency.not-mixed": put(*MESSAGE, "content", value="number 3"),
    "concurrency.ids": put("id", value="0" * 32),
    "anthropic.shape": put("type", value="chat.completion"),
    "anthropic.text": put("content", 0, "text", value="Blue."),
    "anthropic.stop-reason": put("stop_reason", value="stop"),
    "anthropic.usage": drop("usage", "output_tokens"),
    "anthropic.usage-chat": put("usage", "input_tokens", value=7),
    "anthropic.max-tokens": put("stop_reason", value="end_turn"),
    "anthropic.stop-sequence": put("stop_sequence", value=None),
    "anthropic.blocks": put("content", value=[]),
    "anthropic.tool-use": put("content", 0, "input", value="{}"),
    "anthropic.tool-none": put("content", value=[{"type": "tool_use"}]),
    "anthropic.thinking": lambda answer: answer | {"content": answer["content"][::-1]},  # type: ignore[index]
    "responses.shape": put("object", value="chat.completion"),
    "responses.fields": drop("parallel_tool_calls"),
    "responses.message": drop("output", 0, "content", 0, "annotations"),
    "responses.text": put("output", 0, "content", 0, "text", value="Blue."),
    "responses.usage": put("usage", "total_tokens", value=1),
    "responses.store": put("store", value=True),
    "responses.incomplete": put("status", value="completed"),
    "responses.call": drop("output", 0, "call_id"),
    "responses.turns": put("output", value=[]),
}


@pytest.mark.parametrize("check", PLAIN)
def test_a_fault_of_plain_answers(mock: tuple[Mock, str], check: str) -> None:
    assert outcome(mock, check, Faults()) == "passed"
    assert outcome(mock, check, Faults(plain=PLAIN[check])) == "failed"


def each(change: Callable[[Json], object]) -> Callable[[list[Json]], list[Json]]:
    """Another change of a copy for every chunk."""

    def apply(chunks: list[Json]) -> list[Json]:
        copies = copy.deepcopy(chunks)
        for chunk in copies:
            change(chunk)
        return copies

    return apply


def numbered(name: str) -> Callable[[list[Json]], list[Json]]:
    return lambda chunks: [chunk | {name: i} for i, chunk in enumerate(chunks)]


def last(**fields: object) -> Callable[[list[Json]], list[Json]]:
    return lambda chunks: [*chunks[:-1], chunks[-1] | fields]


def delta(**fields: object) -> Json:
    choice = {"index": 0, "delta": fields, "finish_reason": None}
    return {"id": "0" * 32, "object": "chat.completion.chunk", "created": 1, "model": "mock",
            "choices": [choice], "usage": None}  # fmt: skip


def moved(position: int, **fields: object) -> Callable[[list[Json]], list[Json]]:
    """A delta more, at `position`."""
    return lambda chunks: [*chunks[:position], delta(**fields), *chunks[position:]]


def tool_names(chunks: list[Json]) -> list[Json]:
    """Every fragment repeats the name."""
    copies: Any = copy.deepcopy(chunks)
    for chunk in copies:
        for piece in chunk["choices"][0]["delta"].get("tool_calls", []):
            piece["function"]["name"] = "get_weather"
    return list(copies)


CHUNKS: dict[str, Callable[[list[Json]], list[Json]]] = {
    "stream.object": each(put("object", value="chat.completion")),
    "stream.same-id": numbered("id"),
    "stream.same-created": numbered("created"),
    "stream.same-model": numbered("model"),
    "stream.id": each(put("id", value="chatcmpl-1")),
    "stream.role": lambda chunks: chunks[1:],
    "stream.pieces": lambda chunks: [*chunks[:2], chunks[-1]],
    "stream.finish": lambda chunks: chunks[:-1],
    "stream.usage-last": each(put("usage", value={"prompt_tokens": 1})),
    "stream.usage": last(usage={"prompt_tokens": 1}),
    "stream.usage-unasked": last(usage=None),
    "stream.no-extra-chunk": lambda chunks: [*chunks, chunks[-1] | {"choices": []}],
    "stream.equals-plain": moved(3, content="x"),
    "stream.usage-equals-plain": lambda chunks: last(
        usage={**dict(chunks[-1]["usage"]), "completion_tokens": 99}  # type: ignore[call-overload]
    )(chunks),
    "stream.finish-equals-plain": lambda chunks: [
        *chunks[:-1], chunks[-1] | {"choices": [{"index": 0, "delta": {}, "finish_reason": "eos"}]}
    ],
    "stream.never-both": moved(2, content="x", reasoning_content="y"),
    "stream.unicode": moved(3, content="\ufffd"),
    "stream.stop": moved(3, content="tw"),
    "thinking.stream-order": moved(3, content="x"),
    "thinking.stream-exclusive": moved(3, content="x", reasoning_content="y"),
    "thinking.stream-first": lambda chunks: chunks[-2:],
    "thinking.stream-equals-plain": moved(3, reasoning_content="x"),
    "tools.stream-first": lambda chunks: [chunks[0], *chunks[2:]],
    "tools.stream-later": tool_names,
    "tools.stream-equals-plain": lambda chunks: [*chunks[:2], *chunks[3:]],
    "tools.stream-finish": lambda chunks: chunks[:-1],
    "anthropic.event-order": lambda events: [*events[:-2], events[-1], events[-2]],
    "anthropic.event-index": each(lambda event: event.update(index=1)),
    "anthropic.message-start": lambda events: events[1:],
    "anthropic.message-delta": lambda events: [e for e in events if e["type"] != "message_delta"],
    "anthropic.stream-text": lambda events: [*events[:3], *events[4:]],
    "anthropic.tool-stream": lambda events: [*events[:3], *events[4:]],
    "anthropic.thinking-stream": lambda events: [*events[:2], *events[6:10], *events[2:6],
                                                 *events[10:]],
    "responses.sequence": lambda events: [*events[:2], *events[3:]],
    "responses.event-order": lambda events: [events[1], events[0], *events[2:]],
    "responses.stream-text": lambda events: [*events[:4], *events[5:]],
    "responses.stream-whole": lambda events: events[:-1],
    "responses.stream-ids": lambda events: [e | {"item_id": "msg_2"} for e in events],
    "responses.stream-incomplete": lambda events: events[:-1],
    "responses.call-stream": lambda events: [*events[:3], *events[4:]],
    "responses.reasoning": lambda events: [e for e in events if "reasoning" not in str(e["type"])],
    "tools.parallel-stream": lambda chunks: [
        chunk for chunk in chunks if '"index": 1, "id"' not in json.dumps(chunk)
    ],
}  # fmt: skip


@pytest.mark.parametrize("check", CHUNKS)
def test_a_fault_of_chunks(mock: tuple[Mock, str], check: str) -> None:
    assert outcome(mock, check, Faults()) == "passed"
    assert outcome(mock, check, Faults(chunks=CHUNKS[check])) == "failed"


RAW: dict[str, Callable[[bytes], bytes]] = {
    "stream.done": lambda body: body.replace(b"data: [DONE]\n\n", b""),
    "stream.framing": lambda body: body.removesuffix(b"\n"),
    "stream.comments": lambda body: b"hello\n\n" + body,
    "stream.object": lambda body: body.replace(b'data: {"id"', b'data: {"id', 1),
    "anthropic.event-names": lambda body: body.replace(b"event: ping", b"event: message_start"),
    "anthropic.no-done": lambda body: body + b"data: [DONE]\n\n",
    "responses.event-names": lambda body: body.replace(b"event: response.created\n", b""),
    "responses.no-done": lambda body: body + b"data: [DONE]\n\n",
}


@pytest.mark.parametrize("check", RAW)
def test_a_fault_of_bytes(mock: tuple[Mock, str], check: str) -> None:
    assert outcome(mock, check, Faults()) == "passed"
    assert outcome(mock, check, Faults(raw=RAW[check])) == "failed"


def error(**fields: object) -> Callable[[int, Json], tuple[int, object]]:
    """Refusals whose error has `fields` instead."""

    def change(status: int, body: Any) -> tuple[int, object]:
        return status, {"error": {**body["error"], **fields}}

    return change


REFUSALS: dict[str, Callable[[int, Json], tuple[int, object]]] = {
    "errors.status": lambda _status, body: (500, body),
    "errors.shape": lambda status, body: (status, {"detail": "wrong"}),
    "errors.type": error(type="Error"),
    "errors.param": error(message="A field is wrong."),
    "errors.inside": error(message='File "/home/me/server.py", line 3'),
    "errors.bounded": error(message="x" * 10_000),
    "errors.unknown-model": lambda _status, body: (503, body),
    "endpoints.unknown": lambda _status, body: (400, body),
    "endpoints.401-body": error(type="invalid_request_error"),
    "endpoints.401-secret": error(message="sk-0000000000000000000000000000wrong is not known"),
    "endpoints.no-key": lambda _status, body: (403, body),
    "request.temperature": lambda _status, body: (200, body),
}


@pytest.mark.parametrize("check", REFUSALS)
def test_a_fault_of_refusals(mock: tuple[Mock, str], check: str) -> None:
    assert outcome(mock, check, Faults()) == "passed"
    assert outcome(mock, check, Faults(refusal=REFUSALS[check])) == "failed"


HEADERS = {
    "plain.content-type": {"content-type": "text/plain"},
    "stream.content-type": {"content-type": "application/json"},
    "stream.no-cache": {"cache-control": "public"},
    "errors.content-type": {"content-type": "text/html"},
    "errors.request-id": {"x-request-id": ""},
    "errors.request-id-stream": {"x-request-id": ""},
    "errors.request-id-unique": {"x-request-id": "1"},
    "hygiene.versions": {"server": "uvicorn/0.54"},
}


@pytest.mark.parametrize("check", HEADERS)
def test_a_fault_of_headers(mock: tuple[Mock, str], check: str) -> None:
    assert outcome(mock, check, Faults()) == "passed"
    changed = HEADERS[check]
    faults = Faults(headers=lambda headers: {**headers, **changed})
    assert outcome(mock, check, faults) == "failed"


ACCEPTED = ("request.model-missing", "errors.body-cut", "errors.body-nan", "stream.error-before")


@pytest.mark.parametrize("check", ACCEPTED)
def test_a_server_that_takes_everything(mock: tuple[Mock, str], check: str) -> None:
    assert outcome(mock, check, Faults(accepts_all=True)) == "failed"
