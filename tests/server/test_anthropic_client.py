"""Anthropic's own client against the Messages surface: every event by its types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.scripted import RunningServer, run_server, scripted_model
from tests.server.shipped import serving

anthropic = pytest.importorskip("anthropic")

CALLS = '[[think: I add.]] [[say: Let me see.]] [[call: add {"a":17,"b":25}]] [[call: now {}]]'
ASK = [{"role": "user", "content": CALLS}]
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("add", "now")]


def client_at(url: str) -> Any:
    http = httpx2.Client(verify=False, timeout=20.0)
    return anthropic.Anthropic(
        base_url=f"{url}/anthropic", api_key="unused", max_retries=0, http_client=http
    )


@pytest.fixture(scope="module")
def shipped() -> Iterator[Any]:
    with serving() as url:
        yield client_at(url)


def test_streamed_is_plain_and_comes_back(shipped: Any) -> None:
    """Thinking, text and two calls; the answer is then sent back with the calls' results."""
    options = {"model": "scripted", "max_tokens": 300, "messages": ASK, "tools": TOOLS}
    plain = shipped.messages.create(**options)
    with shipped.messages.stream(**options) as stream:
        for event in stream:
            type(event).model_validate(event.to_dict())
        streamed = stream.get_final_message()
    for message in (plain, streamed):
        type(message).model_validate(message.to_dict())
        kinds = [block.type for block in message.content]
        assert kinds == ["thinking", "text", "tool_use", "tool_use"]
        assert message.content[0].thinking == "I add."
        assert message.content[1].text == "Let me see."
        assert (message.content[2].name, message.content[2].input) == ("add", {"a": 17, "b": 25})
        assert (message.content[3].name, message.content[3].input) == ("now", {})
        assert message.stop_reason == "tool_use"
    assert plain.usage.output_tokens == streamed.usage.output_tokens
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "42"}
        for block in streamed.content[2:]
    ]
    told = [
        *ASK,
        {"role": "assistant", "content": streamed.content},
        {"role": "user", "content": [*results, {"type": "text", "text": "[[say: It is 42.]]"}]},
    ]
    answer = shipped.messages.create(**options | {"messages": told})
    assert answer.content[-1].text == "It is 42."
    assert answer.stop_reason == "end_turn"


def test_count_tokens(shipped: Any) -> None:
    fields = {"model": "scripted", "messages": ASK, "system": "Be brief.", "tools": TOOLS}
    counted = shipped.messages.count_tokens(**fields)
    used = shipped.messages.create(**fields, max_tokens=9).usage
    assert counted.input_tokens == used.input_tokens + used.cache_read_input_tokens


@pytest.fixture
def failing() -> Iterator[RunningServer]:
    running = run_server([scripted_model()])
    running.engine.die_after = 3
    yield running
    running.stop()


def test_errors_are_the_clients_own(failing: RunningServer) -> None:
    client = client_at(failing.url)
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model="scripted", max_tokens=0, messages=ASK)
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    with (
        pytest.raises(anthropic.APIStatusError, match="overloaded_error"),
        client.messages.stream(model="scripted", max_tokens=9, messages=ASK) as stream,
    ):
        stream.get_final_message()
