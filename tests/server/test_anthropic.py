"""POST /anthropic/v1/messages over real HTTP, against the scripted engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.scripted import (
    THINKING,
    Held,
    RunningServer,
    client_of,
    run_server,
    scripted_model,
)
from tests.server.shipped import serving
from tribody.core.api_settings import ApiSettings
from tribody.core.errors import BadRequest, EngineFailed, Overloaded
from tribody.server.aliases import anthropic_name
from tribody.server.anthropic import _input
from tribody.server.anthropic_request import chat_request, conversation
from tribody.server.anthropic_types import MessagesRequest
from tribody.server.auth import KeyFile
from tribody.server.models_table import ModelsTable
from tribody.server.service import decode_any

PATH = "/anthropic/v1/messages"
ASK = [{"role": "user", "content": "17 + 25"}]
ADD = {"name": "add", "input_schema": {"type": "object"}}
TEXT = {"type": "text"}
BY_THE_MODEL: dict[str, object] = {"type": "tool_use", "caller": {"type": "direct"}}
CALL: dict[str, object] = {"type": "tool_use", "id": "c", "name": "add", "input": {}}
THOUGHT = "It is 42.</think>42"
CALLS = '[[say: Let me see.]] [[call: add {"a":17,"b":25}]] [[call: now {}]]'


@pytest.fixture(scope="module")
def thinker() -> Iterator[RunningServer]:
    server = run_server([scripted_model("thinker", THINKING)], api=ApiSettings())
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def fresh(thinker: RunningServer) -> None:
    thinker.engine.reset()


@pytest.fixture(scope="module")
def shipped() -> Iterator[httpx2.Client]:
    """The shipped scripted engine, which calls tools as it is told."""
    with serving() as url, httpx2.Client(base_url=url, timeout=20.0, verify=False) as http:
        yield http


def ask(running: RunningServer | httpx2.Client, **fields: object) -> httpx2.Response:
    if isinstance(running, httpx2.Client):
        body = {"model": "scripted", "messages": ASK, "max_tokens": 300, **fields}
        return running.post(PATH, json=body)
    body = {"model": running.engine.info.model_id, "messages": ASK, "max_tokens": 100, **fields}
    with client_of(running) as http:
        return http.post(PATH, json=body)


def events_of(text: str) -> list[dict[str, Any]]:
    """The payloads of a stream, each under the name that it says itself."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, _, data = block.partition("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream tells of, by Anthropic's rules; they are checked on the way."""
    events = [event for event in events if event["type"] != "ping"]
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    message: dict[str, Any] = events[0]["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    inputs: dict[int, str] = {}
    is_open = False
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert (is_open, event["index"]) == (False, len(message["content"]))
            message["content"].append(event["content_block"])
            is_open = True
            continue
        assert (is_open, event["index"]) == (True, len(message["content"]) - 1)
        block = message["content"][-1]
        if event["type"] == "content_block_stop":
            is_open = False
            if block["type"] == "tool_use":
                assert block["input"] == {}
                block["input"] = json.loads(inputs.get(event["index"], "{}"))
            continue
        assert event["type"] == "content_block_delta"
        delta = event["delta"]
        match delta.pop("type"):
            case "input_json_delta":
                place = event["index"]
                inputs[place] = inputs.get(place, "") + delta["partial_json"]
            case "text_delta" | "thinking_delta" | "signature_delta":
                ((name, text),) = delta.items()
                block[name] += text
            case other:
                raise AssertionError(other)
    assert not is_open
    return message | events[-2]["delta"] | {"usage": events[-2]["usage"]}


def both(running: RunningServer | httpx2.Client, **fields: object) -> dict[str, Any]:
    """The plain answer, which must be the streamed one but for what is drawn."""
    plain = ask(running, **fields).json()
    streamed = put_together(events_of(ask(running, stream=True, **fields).text))
    assert without_what_is_drawn(plain) == without_what_is_drawn(streamed)
    return plain


def without_what_is_drawn(message: dict[str, Any]) -> dict[str, Any]:
    """Ids are drawn; and a second request finds the first one's pages."""
    usage = message["usage"]
    blocks = [
        {name: value for name, value in block.items() if name not in ("id", "signature")}
        for block in message["content"]
    ]
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    usage = usage | {"input_tokens": prompt, "cache_read_input_tokens": 0}
    return message | {"id": "", "content": blocks, "usage": usage}


def text_block(text: str) -> dict[str, object]:
    """As Anthropic's schema requires it."""
    return {"type": "text", "text": text, "citations": None}


def test_an_answer(running: RunningServer) -> None:
    answer = ask(running, temperature=0).json()
    prompt = running.engine.submitted[0].prompt_token_ids
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [text_block("Hello, world. 你好!")],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": len(prompt),
            "cache_creation": None,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "inference_geo": None,
            "output_tokens": len("Hello, world. 你好!".encode()) + 1,
            "output_tokens_details": {"thinking_tokens": 0},
            "server_tool_use": None,
            "service_tier": "standard",
        },
    }
    both(running, temperature=0)


def test_input_tokens_are_those_that_were_not_read_from_the_cache(running: RunningServer) -> None:
    first, second = (ask(running, temperature=0).json()["usage"] for _ in range(2))
    total = first["input_tokens"]
    assert second["input_tokens"] == 1
    assert second["cache_read_input_tokens"] == total - 1
    stream = events_of(ask(running, temperature=0, stream=True).text)
    assert stream[-2]["usage"] == second


def test_thinking_is_a_block_of_its_own_and_signed(thinker: RunningServer) -> None:
    thinker.engine.script = lambda request, choice: THOUGHT
    answer = both(thinker)
    thinking, text = answer["content"]
    assert thinking == {"type": "thinking", "thinking": "It is 42.", "signature": answer["id"]}
    assert text == text_block("42")
    events = events_of(ask(thinker, stream=True).text)
    deltas = [e["delta"]["type"] for e in events if e["type"] == "content_block_delta"]
    assert deltas == ["thinking_delta"] * 9 + ["signature_delta"] + ["text_delta"] * 2


def test_thinking_can_be_switched_off(thinker: RunningServer) -> None:
    for kind, opens in (("enabled", True), ("adaptive", True), ("disabled", False)):
        answer = ask(thinker, thinking={"type": kind, "budget_tokens": 1024})
        assert answer.headers["x-tribody-ignored"].split(", ")[0] == "thinking.budget_tokens"
        prompt = thinker.engine.tokenizer.decode(
            thinker.engine.submitted[-1].prompt_token_ids, skip_special_tokens=False
        )
        assert prompt.endswith("<think>\n") is opens, kind


def test_tool_calls(shipped: httpx2.Client) -> None:
    messages = [{"role": "user", "content": CALLS}]
    answer = both(shipped, tools=[ADD], messages=messages, thinking={"type": "disabled"})
    text, first, second = answer["content"]
    assert text == text_block("Let me see.")
    assert first.pop("id").startswith("call_00_")
    assert first == {**BY_THE_MODEL, "name": "add", "input": {"a": 17, "b": 25}}
    assert second.pop("id").startswith("call_01_")
    assert second == {**BY_THE_MODEL, "name": "now", "input": {}}
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)


def test_arguments_that_are_no_object_are_not_lost() -> None:
    shown = {text: bytes(_input(text)) for text in ("", ' {"a": 1} ', '{"a": 1', "[1]", "[" * 9999)}
    assert shown == {
        "": b"{}",
        ' {"a": 1} ': b' {"a": 1} ',
        '{"a": 1': b'{"INVALID_JSON":"{\\"a\\": 1"}',
        "[1]": b'{"INVALID_JSON":"[1]"}',
        "[" * 9999: b'{"INVALID_JSON":"' + b"[" * 9999 + b'"}',
    }


def test_the_stop_sequence_that_ended_the_answer_is_told(running: RunningServer) -> None:
    answer = both(running, temperature=0, stop_sequences=["xyz", "world", "ld"])
    assert answer["content"][0]["text"] == "Hello, "
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "world")


def test_max_tokens(running: RunningServer) -> None:
    answer = both(running, temperature=0, max_tokens=5)
    assert answer["content"] == [text_block("Hello")]
    assert (answer["stop_reason"], answer["usage"]["output_tokens"]) == ("max_tokens", 5)


def test_an_answer_without_a_character_has_no_blocks(running: RunningServer) -> None:
    running.engine.script = lambda request, choice: ""
    answer = both(running)
    assert (answer["content"], answer["stop_reason"]) == ([], "end_turn")


def test_pings_while_it_waits(running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tribody.server.generation.Generation.pieces.__defaults__", (0.05,))
    for after, first in ((0, ["message_start", "ping"]), (2, None)):
        running.engine.hold = held = Held(after=after)
        timer = threading.Timer(0.4, lambda held=held: held.release())
        timer.start()
        events = events_of(ask(running, temperature=0, stream=True).text)
        timer.join()
        kinds = [event["type"] for event in events]
        assert kinds.count("ping") >= 2
        assert first is None or kinds[:2] == first
        assert put_together(events)["content"][0]["text"] == "Hello, world. 你好!"


def test_who_wants_no_keep_alive_gets_no_pings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tribody.server.generation.Generation.pieces.__defaults__", (0.05,))
    keys = tmp_path / "keys"
    keys.write_text("quiet-key stream_keep_alive=false\n")
    server = run_server([scripted_model()], keys=KeyFile.read(keys))
    try:
        server.engine.hold = held = Held(after=1)
        timer = threading.Timer(0.4, held.release)
        timer.start()
        with client_of(server) as http:
            body = {"model": "scripted", "messages": ASK, "max_tokens": 9, "stream": True}
            for headers in (
                {"x-api-key": "quiet-key"},
                {"x-api-key": "quiet-key", "Authorization": "Bearer quiet-key"},
            ):
                answer = http.post(PATH, json=body, headers=headers)
                assert "ping" not in [event["type"] for event in events_of(answer.text)]
            headers = {"x-api-key": "quiet-key", "Authorization": "Bearer another-key"}
            assert http.post(PATH, json=body, headers=headers).status_code == 401
        timer.join()
    finally:
        server.stop()


def test_an_error_is_anthropics(running: RunningServer) -> None:
    answer = ask(running, max_tokens=0)
    body = answer.json()
    assert answer.status_code == 400
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert "max_tokens must be at least 1" in body["error"]["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    running.engine.refuse = Overloaded("the queue is full")
    answer = ask(running)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "overloaded_error")


def test_a_stream_that_fails_ends_with_an_error(running: RunningServer) -> None:
    running.engine.die_after = 3
    answer = ask(running, stream=True)
    *before, last = events_of(answer.text)
    assert [event["type"] for event in before[:2]] == ["message_start", "content_block_start"]
    assert last["error"]["type"] == "overloaded_error"
    assert last["request_id"] == answer.headers["x-request-id"]
    assert "exit status" not in answer.text
    running.engine.refuse = EngineFailed("gone")
    assert ask(running, stream=True).status_code == 503


def test_a_late_error_of_a_plain_answer_is_anthropics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tribody.server.endpoint.HEARTBEAT_SECONDS", 0.05)
    server = run_server([scripted_model()], api=ApiSettings(plain_keep_alive=True))
    try:
        server.engine.hold = held = Held(after=1)
        server.engine.die_after = 2
        timer = threading.Timer(0.3, held.release)
        timer.start()
        answer = ask(server)
        timer.join()
        assert answer.text.startswith("\n")
        assert answer.json()["error"]["type"] == "overloaded_error"
    finally:
        server.stop()


def test_a_client_that_goes_away_stops_the_work(running: RunningServer) -> None:
    running.engine.hold = Held(after=3)
    body = {"model": "scripted", "messages": ASK, "max_tokens": 50, "stream": True}
    with client_of(running) as http, http.stream("POST", PATH, json=body) as answer:
        next(answer.iter_lines())
    assert running.engine.abort_seen.wait(5)


def test_count_tokens(running: RunningServer) -> None:
    body = {"model": "scripted", "messages": ASK, "system": "Be brief."}
    with client_of(running) as http:
        counted = http.post(f"{PATH}/count_tokens", json=body)
        assert running.engine.submitted == []
        used = http.post(PATH, json={**body, "max_tokens": 9}).json()["usage"]
        assert counted.json() == {"input_tokens": used["input_tokens"]}
        refused = http.post(f"{PATH}/count_tokens", json={"model": "scripted"})
    assert (refused.status_code, refused.json()["type"]) == (400, "error")


def test_what_has_no_effect_is_named(running: RunningServer) -> None:
    blocks = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    answer = ask(
        running,
        messages=[{"role": "user", "content": blocks}],
        top_k=5,
        container="c",
        service_tier="auto",
        tools=[ADD],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )
    named = set(answer.headers["x-tribody-ignored"].split(", "))
    assert {"top_k", "container", "service_tier", "cache_control"} <= named
    assert "tool_choice.disable_parallel_tool_use" in named


def test_the_end_user_has_a_cache_of_his_own(running: RunningServer) -> None:
    for fields in ({}, {"metadata": {"user_id": "a"}}, {"metadata": {"user_id": "a"}}):
        ask(running, **fields)
    salts = [request.cache_salt for request in running.engine.submitted]
    assert salts[0] != salts[1] == salts[2]


# --- what becomes of a request ---------------------------------------------------------------


def translated(**fields: object) -> Any:
    body = {"model": "m", "messages": ASK, "max_tokens": 9, **fields}
    asked, _ = decode_any(json.dumps(body).encode(), MessagesRequest)
    found = conversation(asked, drops_thinking=False)
    return chat_request(asked, found, ModelsTable([], {})), found


def test_a_conversation_with_tools() -> None:
    asked, found = translated(
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Add."}],
        messages=[
            {"role": "user", "content": [TEXT | {"text": "17"}, TEXT | {"text": "+ 25"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "So I ", "signature": "s"},
                    {"type": "thinking", "thinking": "add.", "signature": "s"},
                    {"type": "text", "text": "One "},
                    {"type": "text", "text": "moment."},
                    CALL | {"id": "call_00_x", "input": {"b": 1.0, "a": []}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_00_x", "content": "42"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_01_x",
                        "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}],
                        "is_error": False,
                    },
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    )  # fmt: skip
    shown = [(m.role, m.content, m.tool_call_id) for m in asked.messages]
    assert shown == [
        ("system", "Be brief.\nAdd.", None),
        ("user", "17\n+ 25", None),
        ("assistant", "One moment.", None),
        ("tool", "42", "call_00_x"),
        ("tool", "4\n2", "call_01_x"),
        ("user", "And now?", None),
    ]
    results = [f"messages[2].content[{i}]" for i in range(2)]
    assert found.places == ["system", "messages[0]", "messages[1]", *results, "messages[2]"]
    answer = asked.messages[2]
    assert answer.reasoning_content == "So I add."
    assert [(c.id, c.function.name) for c in answer.tool_calls] == [("call_00_x", "add")]
    assert answer.tool_calls[0].function.arguments == '{"b": 1.0, "a": []}'
    assert list(found.ignored) == ["is_error"]


def test_options() -> None:
    schema = {"type": "object"}
    asked, _ = translated(
        stop_sequences=["x"],
        temperature=0.5,
        top_p=0.9,
        stream=True,
        metadata={"user_id": "u"},
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": schema}},
        tools=[{"name": "add", "description": "adds", "input_schema": schema, "type": "custom"}],
        tool_choice={"type": "tool", "name": "add"},
        thinking={"type": "disabled"},
    )
    assert (asked.stop, asked.temperature, asked.top_p, asked.stream) == (["x"], 0.5, 0.9, True)
    assert (asked.max_tokens, asked.user_id, asked.reasoning_effort) == (9, "u", "max")
    assert asked.response_format.type == "json_schema"
    assert asked.response_format.json_schema.schema == schema
    function = asked.tools[0].function
    assert (function.name, function.description, function.parameters) == ("add", "adds", schema)
    assert asked.tool_choice.function.name == "add"
    assert asked.thinking.type == "disabled"
    for given, meant in (("none", "none"), ("auto", "auto"), ("any", "required")):
        asked, _ = translated(tools=[ADD], tool_choice={"type": given})
        assert asked.tool_choice == meant


def test_an_assistants_message_at_the_end_is_continued() -> None:
    asked, _ = translated(messages=[*ASK, {"role": "assistant", "content": "It is "}])
    assert asked.messages[-1].prefix is True
    assert asked.messages[-1].content == "It is "


IMAGE: dict[str, object] = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}


def said(*blocks: dict[str, object], role: str = "user") -> dict[str, object]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


BLOCK = "messages[0].content[0]"
BAD: dict[str, tuple[dict[str, object], str, str]] = {
    "image": (said(IMAGE), f"{BLOCK}.type", "'image' is not supported"),
    "image in a result": (
        said({"type": "tool_result", "tool_use_id": "c", "content": [IMAGE]}),
        f"{BLOCK}.content[0].type",
        "'image'",
    ),
    "result in a system message": (
        {"system": [{"type": "tool_result", "tool_use_id": "c"}]},
        "system[0].type",
        "allowed are text",
    ),
    "document": (said({"type": "document"}), f"{BLOCK}.type", "allowed are text, tool_result"),
    "redacted": (
        said({"type": "redacted_thinking"}, role="assistant"),
        f"{BLOCK}.type",
        "allowed are text, thinking, tool_use",
    ),
    "role": (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].role",
        "user, assistant, system",
    ),
    "no messages": ({"messages": []}, "messages", "at least one"),
    "text without text": (said({"type": "text"}), f"{BLOCK}.text", "needs text"),
    "result without id": (
        said({"type": "tool_result"}),
        f"{BLOCK}.tool_use_id",
        "needs tool_use_id",
    ),
    "call without name": (
        said({"type": "tool_use", "id": "c", "input": {}}, role="assistant"),
        f"{BLOCK}.name",
        "needs name",
    ),
    "call without input": (
        said({"type": "tool_use", "id": "c", "name": "n"}, role="assistant"),
        f"{BLOCK}.input",
        "must be an object",
    ),
    "call with a list": (
        said({"type": "tool_use", "id": "c", "name": "n", "input": []}, role="assistant"),
        f"{BLOCK}.input",
        "must be an object",
    ),
    "thinking": ({"thinking": {"type": "between_tools"}}, "thinking.type", "between_tools"),
    "server tool": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tools[0].type",
        "runs no tools",
    ),
    "choice": (
        {"tools": [ADD], "tool_choice": {"type": "must"}},
        "tool_choice.type",
        "none, auto, any, tool",
    ),
    "choice without a name": (
        {"tools": [ADD], "tool_choice": {"type": "tool"}},
        "tool_choice.name",
        "needs name",
    ),
    "format": (
        {"output_config": {"format": {"type": "xml"}}},
        "output_config.format.type",
        "json_schema",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_names_the_parameter(case: str) -> None:
    fields, param, text = BAD[case]
    with pytest.raises(BadRequest) as caught:
        translated(**fields)
    assert caught.value.param == param
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"stop_sequences": ["x"] * 17}, "stop_sequences has 17 strings"),
        ({"tools": [{"name": "a b"}]}, "tools[0].name 'a b'"),
        ({"tools": [{"name": "a", "input_schema": {"type": "array"}}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice 'required' needs tools"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort 'huge'"),
        ({"metadata": {"user_id": "u" * 600}}, "metadata.user_id has 600 characters"),
        ({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"},
            {"type": "tool_result", "tool_use_id": "c" * 300}]}]},
         "messages[0].content[1].tool_use_id has 300 characters"),
        ({"max_tokens": 5000}, "5000 in the completion"),
        ({"max_tokens": None}, "Invalid type for 'max_tokens'"),
    ],
)  # fmt: skip
def test_errors_of_the_chat_speak_anthropics_words(
    running: RunningServer, fields: dict[str, object], text: str
) -> None:
    answer = ask(running, **fields)
    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]


def test_thinking_comes_back_where_tools_are_used(thinker: RunningServer) -> None:
    """DeepSeek's own words for it."""
    result = {"type": "tool_result", "tool_use_id": "c", "content": "42"}
    told = [*ASK, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [result]}]
    answer = ask(thinker, messages=told, tools=[ADD])
    assert answer.json()["error"]["message"] == (
        "The `content[].thinking` in the thinking mode must be passed back to the API."
    )
    told[1]["content"] = [{"type": "thinking", "thinking": "So.", "signature": "s"}, CALL]  # type: ignore[index]
    assert ask(thinker, messages=told, tools=[ADD]).status_code == 200


def test_the_old_profile_takes_thinking_back_without_effect() -> None:
    """Anthropic's clients send it always, so it cannot be an error here."""
    server = run_server([scripted_model("thinker", THINKING)], api=ApiSettings(profile="2025"))
    try:
        told = [
            *ASK,
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "So."}]},
            {"role": "user", "content": "And 1 + 1?"},
        ]
        answer = ask(server, messages=told)
        assert answer.status_code == 200
        assert "messages.content.thinking" in answer.headers["x-tribody-ignored"]
    finally:
        server.stop()


def test_anthropics_model_names() -> None:
    both_served = {"deepseek-v4-pro", "deepseek-v4-flash"}
    assert anthropic_name("claude-opus-4-8", both_served) == "deepseek-v4-pro"
    assert anthropic_name("claude-sonnet-5", both_served) == "deepseek-v4-flash"
    assert anthropic_name("claude-sonnet-5", both_served | {"deepseek-flash"}) == "deepseek-flash"
    assert anthropic_name("claude-opus-4-8", {"claude-opus-4-8"}) == "claude-opus-4-8"
    assert anthropic_name("claude-opus-4-8", {"mini-r1"}) == "claude-opus-4-8"
    assert anthropic_name("claude-opus-4-8", {"deepseek-chat"}) == "deepseek-chat"
    assert anthropic_name("gpt-9", both_served) == "gpt-9"


def test_an_operators_alias_answers_and_an_unknown_name_does_not() -> None:
    server = run_server([scripted_model()], aliases={"deepseek-v4-pro": "scripted"})
    try:
        assert ask(server, model="claude-opus-4-8").json()["model"] == "scripted"
        answer = ask(server, model="claude-haiku-4-5")
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    finally:
        server.stop()
