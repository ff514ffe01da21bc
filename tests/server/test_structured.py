"""Answers that are held to JSON or to a call, through the whole server and the scripted engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.shipped import serving
from tests.server.test_tools import DISABLED, ENABLED, WEATHER, streamed

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["child", "adult"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
PLAIN = {**PERSON, "properties": {**PERSON["properties"], "name": {"type": "string"}}}
STRICT = {"type": "function", "function": {"name": "add", "parameters": PLAIN, "strict": True}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def shipped() -> Iterator[httpx2.Client]:
    with serving() as url, httpx2.Client(base_url=url, timeout=20.0, verify=False) as http:
        yield http


def post(shipped: httpx2.Client, text: str, **fields: object) -> httpx2.Response:
    body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
    return shipped.post("/chat/completions", json=body)


def ask(shipped: httpx2.Client, text: str, **fields: object) -> dict[str, Any]:
    answer = post(shipped, text, **fields)
    assert answer.status_code == 200, answer.text
    assert "response_format" not in answer.headers.get("x-tribody-ignored", "")
    return answer.json()["choices"][0]


def schema_format(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.mark.parametrize("thinking", [ENABLED, DISABLED])
def test_json_schema_after_free_thinking(shipped: httpx2.Client, thinking: dict[str, str]) -> None:
    """The script says something else; the grammar goes before it."""
    fields = {"thinking": thinking, "response_format": schema_format(PERSON)}
    choice = ask(shipped, "[[think: no json here]] [[say: I will not.]]", **fields)
    made = json.loads(choice["message"]["content"])
    assert set(made) == {"name", "age", "kind"}
    assert choice["finish_reason"] == "stop"
    if thinking is ENABLED:
        assert choice["message"]["reasoning_content"] == "no json here"
    stream = post(shipped, "[[say: I will not.]]", stream=True, **fields)
    assert json.loads(streamed(stream.text)["message"]["content"]) == made


def test_json_object(shipped: httpx2.Client) -> None:
    fields = {"response_format": {"type": "json_object"}, "thinking": DISABLED}
    choice = ask(shipped, "[[say: never json]]", **fields)
    assert isinstance(json.loads(choice["message"]["content"]), dict)
    refused = post(shipped, "no such word", **fields)
    assert refused.status_code == 400
    assert "must contain the word 'json'" in refused.json()["error"]["message"]


def test_several_choices_each_follow(shipped: httpx2.Client) -> None:
    fields = {"response_format": schema_format(PERSON), "thinking": DISABLED, "n": 3}
    answer = post(shipped, "[[random: 30]]", **fields).json()
    for choice in answer["choices"]:
        assert set(json.loads(choice["message"]["content"])) == {"name", "age", "kind"}


@pytest.mark.parametrize("text", ["[[say: no]]", '[[call: get_weather {"city": 3}]]'])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_that_must_be(shipped: httpx2.Client, choice: object, text: str) -> None:
    fields = {"tools": [WEATHER], "tool_choice": choice, "thinking": DISABLED}
    made = ask(shipped, text, **fields)
    assert made["finish_reason"] == "tool_calls"
    call = made["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    arguments = json.loads(call["arguments"])
    assert isinstance(arguments["city"], str)
    assert isinstance(arguments["days"], int)


def test_the_named_tool_is_called(shipped: httpx2.Client) -> None:
    choice = {"type": "function", "function": {"name": "other"}}
    fields = {"tools": [WEATHER, OTHER], "tool_choice": choice, "thinking": DISABLED}
    made = ask(shipped, "Use get_weather", **fields)
    assert [c["function"]["name"] for c in made["message"]["tool_calls"]] == ["other"]


def test_strict_tools_leave_the_choice_but_not_the_arguments(shipped: httpx2.Client) -> None:
    fields = {"tools": [STRICT], "thinking": DISABLED}
    assert ask(shipped, "[[say: no call]]", **fields)["message"]["content"] == "no call"
    made = ask(shipped, '[[call: add {"name": 7, "more": 1}]]', **fields)
    arguments = json.loads(made["message"]["tool_calls"][0]["function"]["arguments"])
    assert set(arguments) == {"name", "age", "kind"}
    assert isinstance(arguments["name"], str)


def test_one_call_at_most(shipped: httpx2.Client) -> None:
    text = '[[call: get_weather {"city":"A","days":1}]] [[call: get_weather {"city":"B","days":2}]]'
    fields = {"tools": [WEATHER], "thinking": DISABLED}
    assert len(ask(shipped, text, **fields)["message"]["tool_calls"]) == 2
    made = ask(shipped, text, parallel_tool_calls=False, **fields)
    assert len(made["message"]["tool_calls"]) == 1


def test_json_or_a_call(shipped: httpx2.Client) -> None:
    fields = {
        "tools": [WEATHER],
        "response_format": schema_format(PERSON),
        "thinking": DISABLED,
    }
    said = '[[say: {"name":"Ada","age":36,"kind":"adult"} and more]]'
    made = ask(shipped, said, **fields)
    assert set(json.loads(made["message"]["content"])) == {"name", "age", "kind"}
    made = ask(shipped, '[[call: get_weather {"city":"A","days":1}]]', **fields)
    assert made["finish_reason"] == "tool_calls"


def test_a_loose_tool_with_a_schema_that_cannot_be_followed_may_be_called(
    shipped: httpx2.Client,
) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}
    tool = {"type": "function", "function": {"name": "odd", "parameters": odd}}
    fields = {"tools": [tool], "tool_choice": "required", "thinking": DISABLED}
    made = ask(shipped, "[[call: odd {}]]", **fields)
    assert made["message"]["tool_calls"][0]["function"]["name"] == "odd"
    for schema in (odd, PERSON):  # DeepSeek's strict mode has no maxLength
        strict = {"name": "odd", "parameters": schema, "strict": True}
        tools = [{"type": "function", "function": strict}]
        assert post(shipped, "x", **{**fields, "tools": tools}).status_code == 400


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"type": "yaml"}, 422),
        ({"type": "json_schema"}, 422),
        (schema_format(None), 400),
        (schema_format({"type": "nothing"}), 400),
        (schema_format({"$ref": "https://example.com/x"}), 400),
        (schema_format({"enum": ["x" * 100_000]}), 400),
        (schema_format({"allOf": [{"type": "string"}, {"type": "integer"}]}), 400),
    ],
)
def test_what_cannot_be_followed_is_refused(
    shipped: httpx2.Client, given: dict[str, object], status: int
) -> None:
    refused = post(shipped, "json", response_format=given)
    assert refused.status_code == status, refused.text
    assert refused.json()["error"]["param"].startswith("response_format")
    good = {"response_format": schema_format(PERSON), "thinking": DISABLED}
    assert ask(shipped, "json", **good)["finish_reason"] == "stop"
