"""POST /v1/chat/completions over real HTTP, against the scripted engine."""

from __future__ import annotations

import json
import socket
import time

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.server.scripted import (
    CONTEXT,
    THINKING,
    Held,
    RunningServer,
    client_of,
    openai_client,
    run_server,
    scripted_model,
    sse_payloads,
)
from tribody.core.errors import EngineFailed, Overloaded

HELLO = "Hello, world. 你好!"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
def client(running: RunningServer) -> openai.OpenAI:
    return openai_client(running)


def ask(http: httpx2.Client, **fields: object) -> httpx2.Response:
    body = {"model": "scripted", "messages": ASK, "temperature": 0, **fields}
    return http.post("/v1/chat/completions", json=body)


def test_plain_answer(client: openai.OpenAI, running: RunningServer) -> None:
    answer = client.chat.completions.create(model="scripted", messages=ASK, temperature=0)
    assert answer.choices[0].message.content == HELLO
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "scripted"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(HELLO.encode()) + 1  # the end token counts
    prompt = "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    request = running.engine.submitted[0]
    assert (
        running.engine.tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False)
        == prompt
    )
    assert request.sampling.max_tokens == CONTEXT - len(request.prompt_token_ids)
    assert request.id == answer.id


def test_streamed_equals_plain(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="scripted", messages=ASK, temperature=0, stream=True
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == HELLO
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]
    assert len({(c.id, c.created) for c in chunks}) == 1
    assert all(c.usage is None for c in chunks)


def test_stream_usage_comes_in_a_chunk_of_its_own(http: httpx2.Client) -> None:
    plain = ask(http).json()["usage"]
    text = ask(http, stream=True, stream_options={"include_usage": True}).text
    payloads = sse_payloads(text)
    assert payloads[-1]["choices"] == []
    usage = payloads[-1]["usage"]
    assert usage["completion_tokens"] == plain["completion_tokens"]
    assert all(p["usage"] is None for p in payloads[:-1])


def test_usage_counts_the_cache_in_both_spellings(http: httpx2.Client) -> None:
    first = ask(http).json()["usage"]
    second = ask(http).json()["usage"]
    assert first["prompt_cache_hit_tokens"] == 0
    assert second["prompt_cache_hit_tokens"] == second["prompt_tokens"] - 1
    assert second["prompt_tokens_details"] == {"cached_tokens": second["prompt_tokens"] - 1}
    assert second["prompt_cache_miss_tokens"] == 1
    assert second["total_tokens"] == second["prompt_tokens"] + second["completion_tokens"]
    assert second["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_another_user_does_not_share_the_cache(http: httpx2.Client, running: RunningServer) -> None:
    for fields in ({}, {"user": "a"}, {"user_id": "a"}, {"user": "b"}, {"user": "a"}):
        ask(http, **fields)
    salts = [request.cache_salt for request in running.engine.submitted]
    assert len(set(salts)) == 4
    assert salts[1] == salts[4]


def test_seed_reaches_the_engine_and_a_missing_one_is_drawn(
    http: httpx2.Client, running: RunningServer
) -> None:
    fixed = ask(http, temperature=1, seed=7).json()["choices"][0]["message"]["content"]
    assert fixed == "seed 7 choice 0."
    ask(http, temperature=1, seed=-1)
    ask(http, temperature=1)
    ask(http, temperature=1)
    seeds = [request.sampling.seed for request in running.engine.submitted]
    assert seeds[1] == 2**64 - 1
    assert seeds[2] != seeds[3]


def test_n_choices(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="scripted", messages=ASK, n=3, seed=5)
    texts = [choice.message.content for choice in plain.choices]
    assert texts == [f"seed 5 choice {i}." for i in range(3)]
    streamed = {0: "", 1: "", 2: ""}
    reasons = {}
    for chunk in client.chat.completions.create(
        model="scripted", messages=ASK, n=3, seed=5, stream=True
    ):
        choice = chunk.choices[0]
        streamed[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert list(streamed.values()) == texts
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}


@pytest.mark.parametrize("stop", ["world", ["xyz", "world"], "wor"])
def test_stop_cuts_the_text_but_not_the_count(http: httpx2.Client, stop: object) -> None:
    plain = ask(http, stop=stop).json()
    assert plain["choices"][0]["message"]["content"] == "Hello, "
    assert plain["choices"][0]["finish_reason"] == "stop"
    length = len("Hello, " + (stop if stop == "wor" else "world"))
    assert plain["usage"]["completion_tokens"] == length
    payloads = sse_payloads(ask(http, stop=stop, stream=True).text)
    assert "".join(p["choices"][0]["delta"].get("content") or "" for p in payloads) == "Hello, "


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length(http: httpx2.Client, name: str) -> None:
    choice = ask(http, **{name: 5}).json()["choices"][0]
    assert choice["message"]["content"] == "Hello"
    assert choice["finish_reason"] == "length"


def test_a_character_over_several_tokens_is_never_halved(http: httpx2.Client) -> None:
    payloads = sse_payloads(ask(http, stream=True).text)
    pieces = [p["choices"][0]["delta"].get("content") or "" for p in payloads]
    assert "你" in pieces
    assert not any("�" in piece for piece in pieces)


def test_cut_character_shows_as_replacement(http: httpx2.Client) -> None:
    whole = ask(http, max_tokens=len(b"Hello, world. ") + 1).json()
    assert whole["choices"][0]["message"]["content"] == "Hello, world. �"


def test_logprobs(client: openai.OpenAI, http: httpx2.Client) -> None:
    plain = client.chat.completions.create(
        model="scripted", messages=ASK, temperature=0, logprobs=True, top_logprobs=3, max_tokens=4
    )
    assert plain.choices[0].logprobs is not None
    content = plain.choices[0].logprobs.content
    assert content is not None
    assert [entry.token for entry in content] == ["H", "e", "l", "l"]
    assert content[0].bytes == [72]
    assert content[0].logprob == -0.25
    assert [top.logprob for top in content[0].top_logprobs] == [-0.25, -9999.0, -9999.0]
    payloads = sse_payloads(ask(http, stream=True, logprobs=True, max_tokens=4).text)
    streamed = [
        entry
        for p in payloads
        if p["choices"][0]["logprobs"]
        for entry in p["choices"][0]["logprobs"]["content"]
    ]
    assert [entry["token"] for entry in streamed] == ["H", "e", "l", "l"]
    assert all(entry["top_logprobs"] == [] for entry in streamed)


def test_the_end_token_has_no_logprob(http: httpx2.Client) -> None:
    choice = ask(http, logprobs=True).json()["choices"][0]
    assert len(choice["logprobs"]["content"]) == len(HELLO.encode())


def test_roles_parts_and_tool_history(http: httpx2.Client, running: RunningServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "So?", "reasoning_content": "secret thoughts"},
    ]
    assert ask(http, messages=messages).status_code == 200
    ids = running.engine.submitted[0].prompt_token_ids
    text = running.engine.tokenizer.decode(ids, skip_special_tokens=False)
    assert "<|im_start|>system\nBe brief." in text
    assert "<|im_start|>user\nab<|im_end|>" in text
    assert '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' in text
    assert "<|im_start|>user\n<tool_response>\n42\n</tool_response>" in text
    assert "secret" not in text


def test_unknown_fields_are_tolerated_and_named(http: httpx2.Client) -> None:
    answer = ask(http, store=True, metadata={"a": 1}, audio=None, **{"bad\nname": 1})
    assert answer.status_code == 200
    assert answer.headers["x-tribody-ignored"] == "store, metadata, ?"
    streamed = ask(http, stream=True, service_tier="auto")
    assert streamed.headers["x-tribody-ignored"] == "service_tier"
    assert "x-tribody-ignored" not in ask(http).headers
    many = {f"field{i}": i for i in range(40)}
    assert ask(http, **many).headers["x-tribody-ignored"].endswith("and 24 more")


def test_path_without_v1_and_alias(http: httpx2.Client) -> None:
    body = {"model": "deepseek-chat", "messages": ASK, "temperature": 0}
    answer = http.post("/chat/completions", json=body).json()
    assert answer["model"] == "scripted"


def test_prompt_that_exactly_fits_and_one_token_more(
    http: httpx2.Client, running: RunningServer
) -> None:
    ask(http, messages=[{"role": "user", "content": ""}])
    frame = len(running.engine.submitted[0].prompt_token_ids)
    room = CONTEXT - frame
    fits = ask(http, messages=[{"role": "user", "content": "x" * (room - 1)}])
    assert fits.status_code == 200
    assert running.engine.submitted[1].sampling.max_tokens == 1
    full = ask(http, messages=[{"role": "user", "content": "x" * room}])
    assert full.status_code == 400
    error = full.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"] == (
        f"This model's maximum context length is {CONTEXT} tokens. However, your messages "
        f"resulted in {CONTEXT} tokens. Please reduce the length of the messages."
    )
    more = ask(http, max_tokens=CONTEXT)
    assert "in the completion" in more.json()["error"]["message"]
    for character in "xé\u0e01":
        content = character * (1_000_000 // len(character.encode()))
        hopeless = ask(http, messages=[{"role": "user", "content": content}])
        assert hopeless.json()["error"]["code"] == "context_length_exceeded"
        assert "more than could fit" in hopeless.json()["error"]["message"]


def test_engine_refusals(http: httpx2.Client, running: RunningServer) -> None:
    for stream in (False, True):
        running.engine.refuse = Overloaded("1024 requests wait; try again later")
        busy = ask(http, stream=stream)
        assert busy.status_code == 503
        assert busy.headers["retry-after"] == "1"
        assert busy.json()["error"]["code"] == "overloaded"
        running.engine.refuse = EngineFailed("exit status 9 at 0x7ffd in /home/me")
        down = ask(http, stream=stream)
        assert down.status_code == 503
        assert "0x7ffd" not in down.text
        assert "/home" not in down.text


def test_engine_error_in_the_middle(http: httpx2.Client, running: RunningServer) -> None:
    running.engine.fail_after = 3
    plain = ask(http)
    assert plain.status_code == 500
    assert "passwd" not in plain.text
    streamed = ask(http, stream=True)
    assert streamed.status_code == 200
    events = [line for line in streamed.text.split("\n\n") if line]
    assert "[DONE]" not in streamed.text
    last = json.loads(events[-1].removeprefix("data: "))
    assert last["error"]["code"] == "engine_error"
    assert "passwd" not in streamed.text
    assert running.engine.aborted == []


def test_engine_death_in_the_middle(http: httpx2.Client, running: RunningServer) -> None:
    running.engine.die_after = 3
    assert ask(http).status_code == 503
    streamed = ask(http, stream=True)
    assert '"code":"engine_failed"' in streamed.text
    assert "0x7ffd" not in streamed.text


def test_openai_client_raises_on_a_broken_stream(
    client: openai.OpenAI, running: RunningServer
) -> None:
    running.engine.fail_after = 3
    stream = client.chat.completions.create(model="scripted", messages=ASK, stream=True)
    with pytest.raises(openai.APIError):
        list(stream)


def test_disconnect_aborts_a_stream(running: RunningServer) -> None:
    held = running.engine.hold = Held(after=4)
    client = openai_client(running)
    stream = client.chat.completions.create(
        model="scripted", messages=ASK, temperature=0, stream=True
    )
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    assert held.reached.wait(5)
    stream.close()
    assert running.engine.abort_seen.wait(5)
    assert running.engine.aborted == [running.engine.submitted[0].id]


def test_disconnect_aborts_a_plain_request(running: RunningServer) -> None:
    held = running.engine.hold = Held(after=4)
    with client_of(running, seconds=0.5) as http, pytest.raises(httpx2.ReadTimeout):
        ask(http)
    assert held.reached.is_set()
    assert running.engine.abort_seen.wait(5)


def test_a_finished_answer_is_not_aborted(http: httpx2.Client, running: RunningServer) -> None:
    ask(http)
    ask(http, stream=True, n=2)
    assert running.engine.aborted == []


def test_reasoning_is_split_from_content() -> None:
    served, engine = scripted_model(chat_template=THINKING)
    running = run_server([(served, engine)])
    engine.script = lambda request, choice: "Let me see.\n</think>\n\nIt is 4."
    with client_of(running) as http:
        plain = ask(http, logprobs=True).json()
        message = plain["choices"][0]["message"]
        assert message["reasoning_content"] == "Let me see.\n"
        assert message["content"] == "It is 4."
        details = plain["usage"]["completion_tokens_details"]
        thinking = len("Let me see.\n</think>\n\n")
        assert details["reasoning_tokens"] == thinking
        logprobs = plain["choices"][0]["logprobs"]
        assert "".join(e["token"] for e in logprobs["content"]) == "It is 4."
        assert len(logprobs["reasoning_content"]) == thinking
        payloads = sse_payloads(ask(http, stream=True).text)
    deltas = [p["choices"][0]["delta"] for p in payloads]
    assert deltas[0] == {"role": "assistant", "content": None, "reasoning_content": ""}
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == "Let me see.\n"
    assert "".join(d.get("content") or "" for d in deltas) == "It is 4."
    assert not any(d.get("content") and d.get("reasoning_content") for d in deltas)
    running.stop()


def test_a_base_model_answers_completions_only() -> None:
    running = run_server([scripted_model(chat_template=None)])
    with client_of(running) as http:
        refused = ask(http)
        assert refused.status_code == 400
        assert "/v1/completions" in refused.json()["error"]["message"]
        body = {"model": "scripted", "prompt": "x", "temperature": 0}
        assert http.post("/v1/completions", json=body).status_code == 200
    running.stop()


def test_a_client_that_leaves_while_it_is_read_is_no_failure(
    running: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It was logged as a mistake of the server's."""
    caplog.set_level("INFO", logger="tribody.server.boundary")
    host, _, port = running.url.removeprefix("http://").partition(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: 100\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"{")
    deadline = time.monotonic() + 10
    while "status=499" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "status=499" in caplog.text
    assert "request_failed" not in caplog.text
