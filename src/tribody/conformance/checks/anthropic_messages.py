"""How the Anthropic checks ask, and how they read messages and their events (contract 9)."""

from __future__ import annotations

from tribody.conformance.json_value import Value
from tribody.conformance.target import Target
from tribody.conformance.verdict import expect
from tribody.conformance.wire import Answer, EventStream

TEXT = "The sky is blue."
VERSION = "2023-06-01"


def message_body(t: Target, content: object, **fields: object) -> dict[str, object]:
    body: dict[str, object] = {
        "model": t.model,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": content}],
    }
    if t.profile == "2026":
        body["thinking"] = {"type": "disabled"}
    return {name: value for name, value in (body | fields).items() if value is not ...}


def send(t: Target, content: object, **fields: object) -> Answer:
    headers = {"anthropic-version": VERSION}
    if t.client.key:
        headers["x-api-key"] = t.client.key
    payload = message_body(t, content, **fields)
    return t.client.send("POST", t.path("anthropic"), payload=payload, headers=headers)


def plain_message(t: Target) -> Value:
    return t.keep("anthropic", lambda: send(t, t.prompts.say(TEXT), temperature=0).ok())


def stream_message(t: Target, content: object, **fields: object) -> EventStream:
    answer = send(t, content, stream=True, **fields).expect_status(200)
    found = answer.header("content-type")
    expect(found.startswith("text/event-stream"), "content-type text/event-stream", found)
    return EventStream.read(answer.body)


def streamed_message(t: Target) -> EventStream:
    ask = t.prompts.say(TEXT)
    return t.keep("anthropic stream", lambda: stream_message(t, ask, temperature=0))


def event_types(stream: EventStream) -> list[str]:
    return [event.at("type").text() for event in stream.payloads]


def joined_deltas(stream: EventStream, kind: str, field: str) -> str:
    return "".join(
        event.at("delta", field).text()
        for event in stream.payloads
        if event.at("type").raw == "content_block_delta" and event.at("delta", "type").raw == kind
    )


def text_of(answer: Value) -> str:
    return "".join(
        block.at("text").text()
        for block in answer.at("content").items()
        if block.at("type").raw == "text"
    )


def blocks_of(answer: Value, kind: str) -> list[Value]:
    return [block for block in answer.at("content").items() if block.at("type").raw == kind]


def given_tokens(usage: Value) -> int:
    """Of the prompt: new, written to the cache and read from it, which Anthropic counts apart."""
    names = ("cache_read_input_tokens", "cache_creation_input_tokens")
    cached = [usage.maybe(name) for name in names]
    return usage.at("input_tokens").integer() + sum(c.integer() for c in cached if not c.null)
