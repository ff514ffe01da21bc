"""POST /v1/completions over real HTTP, against the scripted engine."""

from __future__ import annotations

import httpx2
import pytest

from tests.server.scripted import Held, RunningServer, client_of, openai_client, sse_payloads

HELLO = "Hello, world. 你好!"


def complete(http: httpx2.Client, **fields: object) -> httpx2.Response:
    body = {"model": "scripted", "prompt": "Say", "temperature": 0, **fields}
    return http.post("/v1/completions", json=body)


def test_openai_client_plain_and_streamed(running: RunningServer) -> None:
    client = openai_client(running)
    plain = client.completions.create(model="scripted", prompt="Say", temperature=0)
    assert plain.choices[0].text == HELLO
    assert plain.choices[0].finish_reason == "stop"
    assert plain.object == "text_completion"
    chunks = list(
        client.completions.create(
            model="scripted",
            prompt="Say",
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == HELLO
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_prompt_forms(http: httpx2.Client, running: RunningServer) -> None:
    ids = running.engine.tokenizer.encode("Say", add_special_tokens=False)
    for prompt, count in (("Say", 1), (["Say", "Say"], 2), (ids, 1), ([ids, ids, ids], 3)):
        running.engine.submitted.clear()
        answer = complete(http, prompt=prompt).json()
        assert [choice["text"] for choice in answer["choices"]] == [HELLO] * count
        assert [choice["index"] for choice in answer["choices"]] == list(range(count))
        assert [r.prompt_token_ids for r in running.engine.submitted] == [ids] * count
        assert answer["usage"]["prompt_tokens"] == count * len(ids)


def test_prompts_times_n(http: httpx2.Client, running: RunningServer) -> None:
    running.engine.script = lambda request, choice: f"{len(request.prompt_token_ids)}/{choice}"
    expected = ["1/0", "1/1", "2/0", "2/1"]
    plain = complete(http, prompt=["a", "bb"], n=2).json()
    assert [choice["text"] for choice in plain["choices"]] == expected
    texts = [""] * 4
    for payload in sse_payloads(complete(http, prompt=["a", "bb"], n=2, stream=True).text):
        texts[payload["choices"][0]["index"]] += payload["choices"][0]["text"]
    assert texts == expected


def test_echo(http: httpx2.Client) -> None:
    plain = complete(http, prompt=["ab", [64, 65]], echo=True, n=1).json()
    texts = [choice["text"] for choice in plain["choices"]]
    assert texts[0] == "ab" + HELLO
    assert texts[1].endswith(HELLO)
    assert len(texts[1]) == len(HELLO) + 2
    payloads = sse_payloads(complete(http, prompt="ab", echo=True, stream=True).text)
    assert "".join(p["choices"][0]["text"] for p in payloads) == "ab" + HELLO


def test_logprobs_as_parallel_lists(http: httpx2.Client) -> None:
    logprobs = complete(http, logprobs=2, max_tokens=3).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["H", "e", "l"]
    assert logprobs["token_logprobs"] == [-0.25] * 3
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["top_logprobs"][0]["H"] == -0.25
    assert complete(http, logprobs=0).json()["choices"][0]["logprobs"]["top_logprobs"] is None
    assert complete(http).json()["choices"][0]["logprobs"] is None
    offsets = []
    for payload in sse_payloads(complete(http, logprobs=1, max_tokens=3, stream=True).text):
        offsets += (payload["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]
    assert offsets == [0, 1, 2]


def test_stop_and_length(http: httpx2.Client) -> None:
    stopped = complete(http, stop=[", "]).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("Hello", "stop")
    cut = complete(http, max_tokens=3).json()["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == ("Hel", "length")


def test_thinking_tags_are_ordinary_text(http: httpx2.Client, running: RunningServer) -> None:
    running.engine.script = lambda request, choice: "<think>a</think>b"
    assert complete(http).json()["choices"][0]["text"] == "<think>a</think>b"


def test_one_prompt_refused_aborts_the_others(http: httpx2.Client, running: RunningServer) -> None:
    running.engine.fail_after = 2
    assert complete(http, prompt=["a", "b", "c"]).status_code == 500
    assert len(running.engine.aborted) <= 2


def test_disconnect_aborts_every_prompt(running: RunningServer) -> None:
    running.engine.hold = Held(after=1)
    with client_of(running, seconds=0.5) as http, pytest.raises(httpx2.ReadTimeout):
        complete(http, prompt=["a", "b"])
    with client_of(running) as client:
        for _ in range(100):
            if len(running.engine.aborted) == 2:
                break
            client.get("/health")
    assert sorted(running.engine.aborted) == sorted(r.id for r in running.engine.submitted)
