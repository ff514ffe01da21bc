"""Tool calls through the whole server: the shipped scripted engine writes, clients read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.scripted import sse_payloads
from tests.server.shipped import serving

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of some days.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
TWO = '[[say: Looking.]] [[call: get_weather {"city":"Rom","days":2}]] [[call: other {}]]'
ENABLED, DISABLED = {"type": "enabled"}, {"type": "disabled"}


@pytest.fixture(scope="module")
def shipped() -> Iterator[httpx2.Client]:
    with serving() as url, httpx2.Client(base_url=url, timeout=20.0, verify=False) as http:
        yield http


def ask(shipped: httpx2.Client, text: str, **fields: object) -> httpx2.Response:
    messages = [{"role": "user", "content": text}]
    body = {"model": "scripted", "messages": messages, "tools": [WEATHER], **fields}
    answer = shipped.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def streamed(text: str) -> dict[str, Any]:
    """A stream put together again into what a plain answer's choice holds."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[dict[str, Any]] = []
    reason = None
    for payload in sse_payloads(text):
        choice = payload["choices"][0]
        delta = choice["delta"]
        message["content"] += delta.get("content") or ""
        if delta.get("reasoning_content") is not None:
            message.setdefault("reasoning_content", "")
            message["reasoning_content"] += delta["reasoning_content"]
        for part in delta.get("tool_calls", ()):
            assert not delta.get("content")
            if "id" in part:
                assert part["index"] == len(calls)
                calls.append({"id": part["id"], "type": part["type"], "function": {"name": ""}})
                calls[-1]["function"] = {"name": part["function"]["name"], "arguments": ""}
            calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    if calls:
        message["tool_calls"] = calls
    return {"message": message, "finish_reason": reason}


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """For comparison; only plain messages have the `refusal` that OpenAI's schema requires."""
    calls = [{**call, "id": ""} for call in message.get("tool_calls", ())]
    return {"refusal": None, **message, "tool_calls": calls}


@pytest.mark.parametrize("thinking", [ENABLED, DISABLED])
@pytest.mark.parametrize(
    "text", ['Use get_weather for "Paris", 3 days', TWO, "[[say: none]]", "[[say: a<think>b]]"]
)
def test_streamed_equals_plain(shipped: httpx2.Client, text: str, thinking: dict[str, str]) -> None:
    plain = ask(shipped, text, thinking=thinking).json()
    stream = streamed(ask(shipped, text, thinking=thinking, stream=True).text)
    choice = plain["choices"][0]
    assert stream["finish_reason"] == choice["finish_reason"]
    assert without_ids(stream["message"]) == without_ids(choice["message"])
    assert ("reasoning_content" in choice["message"]) is (thinking is ENABLED)


def test_a_call_with_its_arguments(shipped: httpx2.Client) -> None:
    choice = ask(shipped, 'Use get_weather for "Paris", 3 days').json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "days": 3}


def test_parallel_calls_are_numbered(shipped: httpx2.Client) -> None:
    choice = ask(shipped, TWO, thinking=DISABLED).json()["choices"][0]
    assert choice["message"]["content"] == "Looking."
    calls = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_weather", "other"]
    for index, call in enumerate(calls):
        assert re.fullmatch(rf"call_{index:02d}_[A-Za-z0-9]{{24}}", call["id"])
    assert len({call["id"] for call in calls}) == 2


def test_results_come_back(shipped: httpx2.Client) -> None:
    first = ask(shipped, 'Use get_weather for "Paris", 3 days').json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "Sunny."}
    messages = [{"role": "user", "content": "How is it?"}, first, result]
    answer = ask(shipped, "", messages=messages).json()
    assert "Sunny." in answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "raw",
    [
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather no separator",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>[1]<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": oops}'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ],
)
def test_what_is_no_call_comes_back_as_text(shipped: httpx2.Client, raw: str) -> None:
    choice = ask(shipped, f"[[raw: {raw}]]", thinking=DISABLED).json()["choices"][0]
    assert choice["message"]["content"] == raw
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("stop", False)


def test_with_no_tool_allowed_nothing_is_a_call(shipped: httpx2.Client) -> None:
    for fields in ({"tool_choice": "none"}, {"tools": None}):
        choice = ask(shipped, TWO, thinking=DISABLED, **fields).json()["choices"][0]
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] == "stop"


def test_usage_counts_what_a_call_took(shipped: httpx2.Client) -> None:
    answer = ask(shipped, TWO, thinking=DISABLED).json()
    markers = 1 + 2 * 3 + 1 + 1  # block, two calls, end of block, end of answer
    text = "Looking." + 'get_weather{"city":"Rom","days":2}' + "other{}"
    assert answer["usage"]["completion_tokens"] == len(text) + markers


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"tools": [WEATHER] * 129}, 422, "tools"),
        ({"tools": [{**WEATHER, "type": "retrieval"}]}, 422, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 422, "tools[0].function"),
        ({"tool_choice": "maybe"}, 422, "tool_choice"),
        ({"tool_choice": "auto", "tools": None}, 400, "tool_choice"),
        ({"tool_choice": {"function": {"name": "nobody"}}}, 400, "tool_choice"),
    ],
)
def test_bad_tools(
    shipped: httpx2.Client, fields: dict[str, object], status: int, param: str
) -> None:
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "scripted", "messages": messages, "tools": [WEATHER], **fields}
    answer = shipped.post("/chat/completions", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"].startswith(param)


def test_results_must_belong_to_calls(shipped: httpx2.Client) -> None:
    """A call without its result, or a result without its call, was taken as it came."""
    user = {"role": "user", "content": "How is it?"}
    called = {"id": "call_1", "function": {"name": "get_weather", "arguments": "{}"}}
    asked = {"role": "assistant", "content": "", "tool_calls": [called]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}
    for messages, param in (
        ([user, result], "messages[1].tool_call_id"),
        ([user, asked], "messages[1].tool_calls"),
        ([user, asked, user], "messages[2]"),
        ([user, asked, {**result, "tool_call_id": "call_2"}], "messages[2].tool_call_id"),
        ([user, asked, result, result], "messages[3].tool_call_id"),
    ):
        body = {"model": "scripted", "messages": messages, "thinking": DISABLED}
        refused = shipped.post("/chat/completions", json=body)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["param"] == param
    body = {"model": "scripted", "messages": [user, asked, result], "thinking": DISABLED}
    assert shipped.post("/chat/completions", json=body).status_code == 200


def test_a_stop_string_does_not_reach_across_a_marker(shipped: httpx2.Client) -> None:
    """The engine dropped markers that are special tokens, and saw "okget" in ok<marker>get."""
    raw = "[[raw: ok<｜tool▁calls▁begin｜>get on]]"
    choice = ask(shipped, raw, thinking=DISABLED, stop=["okget"]).json()["choices"][0]
    assert choice["message"]["content"] == "ok<｜tool▁calls▁begin｜>get on"
    choice = ask(shipped, raw, thinking=DISABLED, stop=["▁begin｜>g"]).json()["choices"][0]
    assert choice["message"]["content"] == "ok<｜tool▁calls"
    assert choice["finish_reason"] == "stop"
