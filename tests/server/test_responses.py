"""POST /responses over real HTTP, with openai's client and by hand."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.server.scripted import (
    THINKING,
    Held,
    RunningServer,
    client_of,
    openai_client,
    run_server,
    scripted_model,
)
from tests.server.shipped import serving
from tribody.core.api_settings import ApiSettings
from tribody.core.errors import BadRequest, Overloaded
from tribody.server.responses_request import Conversation, chat_request, conversation
from tribody.server.responses_types import ResponsesRequest
from tribody.server.service import decode_any
from tribody.server.types import ChatRequest

HELLO = "Hello, world. 你好!"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}
CALLS = '[[think: I add.]] [[say: Let me see.]] [[call: add {"a":17,"b":25}]] [[call: now {}]]'


@pytest.fixture(scope="module")
def shipped() -> Iterator[httpx2.Client]:
    """The shipped scripted engine, which thinks and calls tools as it is told."""
    with serving() as url, httpx2.Client(base_url=url, timeout=20.0, verify=False) as http:
        yield http


def ask(http: httpx2.Client, **fields: object) -> httpx2.Response:
    body = {"model": "scripted", "input": "Say hello.", "temperature": 0, **fields}
    return http.post("/responses", json=body)


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream: named, numbered, and of the client's own types."""
    found: list[dict[str, Any]] = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(found)
        EVENT.validate_python(event)
        found.append(event)
    return found


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a stream's last event says, which must be what the events before it have told."""
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    items: list[dict[str, Any]] = []
    deltas = ""
    for event in events[2:-1]:
        kind = event["type"].removeprefix("response.")
        assert event["output_index"] == len(items) - (kind != "output_item.added")
        if kind == "output_item.added":
            items.append(event["item"])
            deltas = ""
            assert event["item"]["status"] == "in_progress"
            assert not event["item"].get("content")
            continue
        if kind == "output_item.done":
            assert event["item"]["id"] == items[-1]["id"]
            items[-1] = event["item"]
            continue
        assert event["item_id"] == items[-1]["id"]
        if kind.endswith(".delta"):
            deltas += event["delta"]
        elif kind.startswith("content_part"):
            assert event["part"]["text"] == deltas
        else:
            assert event.get("text", event.get("arguments")) == deltas
    response: dict[str, Any] = events[-1]["response"]
    assert events[-1]["type"] == f"response.{response['status']}"
    assert response["output"] == items
    assert response["id"] == events[0]["response"]["id"]
    return response


def without_what_is_drawn(response: dict[str, Any]) -> dict[str, Any]:
    """Ids are drawn, time passes, and a second request finds the first one's pages."""
    items = [item | {"id": ""} for item in response["output"]]
    items = [item | {"call_id": ""} if "call_id" in item else item for item in items]
    usage = response["usage"] | {"input_tokens_details": {}}
    times = {"created_at": 0, "completed_at": response["completed_at"] is not None}
    return response | times | {"id": "", "output": items, "usage": usage}


def both(http: httpx2.Client, **fields: object) -> dict[str, Any]:
    """The plain answer, which must be the streamed one but for what is drawn."""
    answer = ask(http, **fields)
    assert answer.status_code == 200, answer.text
    plain: dict[str, Any] = answer.json()
    Response.model_validate(plain)
    streamed = put_together(events_of(ask(http, stream=True, **fields).text))
    assert without_what_is_drawn(plain) == without_what_is_drawn(streamed)
    return plain


def test_an_answer(http: httpx2.Client, running: RunningServer) -> None:
    answer = both(http, instructions="Be brief.", metadata={"a": "b"})
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"], answer["store"]) == ("response", "completed", False)
    assert (answer["instructions"], answer["metadata"]) == ("Be brief.", {"a": "b"})
    (message,) = answer["output"]
    assert message.pop("id").startswith("msg_")
    text = {"type": "output_text", "text": HELLO, "annotations": [], "logprobs": []}
    assert message == {
        "type": "message", "role": "assistant", "status": "completed", "content": [text],
    }  # fmt: skip
    prompt = len(running.engine.submitted[0].prompt_token_ids)
    completion = len(HELLO.encode()) + 1
    assert answer["usage"] == {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
    cached = ask(http, instructions="Be brief.").json()["usage"]["input_tokens_details"]
    assert cached["cached_tokens"] == prompt - 1


def test_openais_client(running: RunningServer) -> None:
    client = openai_client(running)
    options: dict[str, Any] = {"model": "scripted", "input": "Say hello.", "temperature": 0}
    assert client.responses.create(**options).output_text == HELLO
    with client.responses.stream(**options) as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == HELLO
    assert "".join(deltas) == HELLO


def test_thinking_text_and_calls(shipped: httpx2.Client) -> None:
    answer = both(shipped, input=CALLS, tools=[ADD], include=["reasoning.encrypted_content"])
    reasoning, message, first, second = answer["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "I add."}]
    assert base64.b64decode(reasoning["encrypted_content"]) == b"I add."
    assert message["content"][0]["text"] == "Let me see."
    assert (first["type"], first["name"]) == ("function_call", "add")
    assert json.loads(first["arguments"]) == {"a": 17, "b": 25}
    assert first["call_id"].startswith("call_00_")
    assert (second["name"], second["arguments"]) == ("now", "{}")
    assert answer["status"] == "completed"
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


def test_an_answer_comes_back(shipped: httpx2.Client) -> None:
    """Its items as they are, then the results; reasoning as text or as encrypted content."""
    include = ["reasoning.encrypted_content"]
    output = ask(shipped, input=CALLS, tools=[ADD], include=include).json()["output"]
    reasoning, message, *calls = output
    results = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
        for call in calls
    ]
    end = {"role": "user", "content": [{"type": "input_text", "text": "[[say: It is 42.]]"}]}
    for thought in (reasoning, {**reasoning, "content": None}):
        told = [{"role": "user", "content": CALLS}, thought, message, *calls, *results, end]
        answer = ask(shipped, input=told, tools=[ADD])
        assert answer.status_code == 200, answer.text
        assert answer.json()["output"][-1]["content"][0]["text"] == "It is 42."
    told = [{"role": "user", "content": CALLS}, message, *calls, *results, end]
    refused = ask(shipped, input=told, tools=[ADD]).json()["error"]
    assert refused["message"] == (
        "The `reasoning` in the thinking mode must be passed back to the API."
    )
    assert refused["param"] == "input[1].reasoning"


def test_max_output_tokens(http: httpx2.Client) -> None:
    answer = both(http, max_output_tokens=5)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"
    assert answer["output"][0]["content"][0]["text"] == "Hello"


def test_an_answer_without_a_character_has_no_items(
    http: httpx2.Client, running: RunningServer
) -> None:
    running.engine.script = lambda request, choice: ""
    assert both(http)["output"] == []


def test_comments_while_it_waits(
    http: httpx2.Client, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tribody.server.generation.Generation.pieces.__defaults__", (0.05,))
    running.engine.hold = held = Held(after=0)
    timer = threading.Timer(0.4, held.release)
    timer.start()
    text = ask(http, stream=True).text
    timer.join()
    assert text.count(": keep-alive") >= 2
    assert put_together(events_of(text))["status"] == "completed"


def test_a_stream_that_fails_says_so(http: httpx2.Client, running: RunningServer) -> None:
    running.engine.die_after = 3
    text = ask(http, stream=True).text
    last = events_of(text)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert last["response"]["output"][0]["content"][0]["text"] == "Hel"
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert "exit status" not in text
    running.engine.refuse = Overloaded("the queue is full")
    assert ask(http, stream=True).status_code == 503
    assert ask(http).json()["error"]["code"] == "overloaded"


def test_a_client_that_goes_away_stops_the_work(running: RunningServer) -> None:
    running.engine.hold = Held(after=3)
    body = {"model": "scripted", "input": "Hi", "stream": True}
    with client_of(running) as http, http.stream("POST", "/v1/responses", json=body) as answer:
        next(answer.iter_lines())
    assert running.engine.abort_seen.wait(5)


def test_what_has_no_effect_is_named(http: httpx2.Client) -> None:
    answer = ask(
        http,
        store=True,
        previous_response_id="resp_1",
        background=False,
        truncation="auto",
        include=["message.output_text.logprobs"],
        text={"verbosity": "low"},
        reasoning={"summary": "auto"},
    )
    named = set(answer.headers["x-tribody-ignored"].split(", "))
    assert named == {
        "store", "previous_response_id", "background", "truncation", "reasoning.summary",
        "include.message.output_text.logprobs", "text.verbosity",
    }  # fmt: skip
    assert answer.json()["previous_response_id"] is None


def test_the_old_profile_takes_reasoning_back_without_effect() -> None:
    server = run_server([scripted_model("thinker", THINKING)], api=ApiSettings(profile="2025"))
    told = [
        {"role": "user", "content": "Hi"},
        thought("So."),
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "And?"},
    ]
    try:
        with client_of(server) as http:
            answer = http.post("/responses", json={"model": "thinker", "input": told})
        assert answer.status_code == 200
        assert "input.reasoning" in answer.headers["x-tribody-ignored"]
    finally:
        server.stop()


# --- what becomes of a request ---------------------------------------------------------------


def translated(**fields: object) -> tuple[ChatRequest, Conversation]:
    body = {"model": "m", "input": "Hi", **fields}
    asked, _ = decode_any(json.dumps(body).encode(), ResponsesRequest)
    found = conversation(asked, drops_thinking=False)
    return chat_request(asked, found), found


def message(role: str, kind: str, *texts: str) -> dict[str, object]:
    parts = [{"type": kind, "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


def thought(text: str) -> dict[str, object]:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def test_items_of_one_turn_are_one_message() -> None:
    call = {"type": "function_call", "arguments": '{"a": 1}'}
    result = {"type": "function_call_output", "call_id": "c2"}
    asked, found = translated(
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "Add."},
            message("user", "input_text", "1 ", "+ 1"),
            thought("So "),
            thought("add."),
            message("assistant", "output_text", "Wait."),
            {**call, "call_id": "c1", "name": "add"},
            {**call, "call_id": "c2", "name": "add"},
            {"type": "function_call_output", "call_id": "c1", "output": "2"},
            {**result, "output": [{"type": "input_text", "text": "2"}]},
            {"type": "reasoning", "summary": []},
            {"role": "assistant", "content": "2"},
            {"role": "assistant", "content": "Two."},
        ],
    )
    shown = [(m.role, m.content, m.reasoning_content, m.tool_call_id) for m in asked.messages]
    assert shown == [
        ("system", "Be brief.", None, None),
        ("user", "Add.", None, None),
        ("user", "1 + 1", None, None),
        ("assistant", "Wait.", "So add.", None),
        ("tool", "2", None, "c1"),
        ("tool", "2", None, "c2"),
        ("assistant", "2", "", None),
        ("assistant", "Two.", None, None),
    ]
    calls = asked.messages[3].tool_calls or []
    assert [(c.id, c.function.name, c.function.arguments) for c in calls] == [
        ("c1", "add", '{"a": 1}'),
        ("c2", "add", '{"a": 1}'),
    ]
    places = [0, 1, 2, 7, 8, 9, 11]
    assert found.places == ["instructions", *(f"input[{i}]" for i in places)]


def test_options() -> None:
    schema = {"type": "object"}
    named = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    asked, _ = translated(
        tools=[ADD | {"strict": True}],
        tool_choice={"type": "function", "name": "add"},
        parallel_tool_calls=False,
        text={"format": named},
        reasoning={"effort": "minimal"},
        max_output_tokens=9,
        top_p=0.5,
        user="u",
        stream=True,
    )
    assert asked.tools is not None
    function = asked.tools[0].function
    assert (function.name, function.parameters, function.strict) == ("add", schema, True)
    assert not isinstance(asked.tool_choice, str | None)
    assert asked.tool_choice.function.name == "add"
    assert asked.parallel_tool_calls is False
    assert asked.response_format is not None
    assert asked.response_format.type == "json_schema"
    assert asked.response_format.json_schema is not None
    assert asked.response_format.json_schema.schema == schema
    assert (asked.reasoning_effort, asked.max_tokens, asked.top_p) == ("minimal", 9, 0.5)
    assert (asked.user_id, asked.stream) == ("u", True)
    asked, _ = translated(text={"format": {"type": "json_object"}}, tool_choice="required")
    assert asked.response_format is not None
    assert (asked.response_format.type, asked.tool_choice) == ("json_object", "required")


IMAGE = {"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}
BAD: dict[str, tuple[dict[str, object], str]] = {
    "nothing": ({"input": []}, "input"),
    "image": ({"input": [IMAGE]}, "input[0].content[0].type"),
    "reference": ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    "role": ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    "no role": ({"input": [{"content": "x"}]}, "input[0].role"),
    "no content": ({"input": [{"role": "user"}]}, "input[0].content"),
    "part without text": (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
    ),
    "call": ({"input": [{"type": "function_call", "name": "n"}]}, "input[0].call_id"),
    "output": (
        {"input": [{"type": "function_call_output", "call_id": "c"}]},
        "input[0].output",
    ),
    "encrypted": (
        {"input": [{"type": "reasoning", "encrypted_content": "gAAAA_"}]},
        "input[0].encrypted_content",
    ),
    "hosted tool": ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    "tool without name": ({"tools": [{"type": "function"}]}, "tools[0].name"),
    "choice": ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    "choice without name": ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    "metadata": ({"metadata": {"k" * 65: "v"}}, "metadata"),
    "tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_names_the_parameter(case: str) -> None:
    fields, param = BAD[case]
    with pytest.raises(BadRequest) as caught:
        translated(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tool_choice": "must"}, "tool_choice"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"user": "u" * 600}, "user"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"input": "x" * 3000}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c" * 300, "output": ""}]},
         "input[0].call_id"),
        ({"max_output_tokens": 400}, None),
        ({"temperature": 3}, "temperature"),
    ],
)  # fmt: skip
def test_errors_of_the_chat_speak_the_surfaces_words(
    http: httpx2.Client, fields: dict[str, object], param: str | None
) -> None:
    answer = ask(http, **fields)
    if param is None:
        assert answer.status_code == 200
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    name = param.rpartition(".")[2]
    assert name in error["message"]


def test_how_it_was_sampled_comes_back(http: httpx2.Client) -> None:
    """Whoever checks answers against OpenAI's schema wants numbers, also where none were sent."""
    answer = ask(http, temperature=None).json()
    numbers = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
    assert {name: answer[name] for name in numbers} == numbers
    always = {
        "max_tool_calls": None, "prompt_cache_key": None, "safety_identifier": None,
        "service_tier": "default", "top_logprobs": 0,
    }  # fmt: skip
    assert {name: answer[name] for name in always} == always
    assert answer["text"]["verbosity"] == "medium"
    asked = ask(http, temperature=0.25, top_p=0.5, reasoning={"effort": "none"}).json()
    assert (asked["temperature"], asked["top_p"]) == (0.25, 0.5)
