"""`tribody serve scripted` as a user starts it, with openai-python as its client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion

COMMAND = (sys.executable, "-m", "tribody.cli.main", "serve", "scripted:faults", "--port", "0")
MODEL = "scripted"
OFF = {"thinking": {"type": "disabled"}}


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if "TRIBODY" not in name},
    )
    assert process.stdout is not None
    said = ""
    while "curl" not in said and (line := process.stdout.readline()):
        said += line
    found = re.search(r"ready at (\S+)", said)
    assert found, said
    http = httpx2.Client(verify=False, timeout=60.0)
    yield openai.OpenAI(base_url=found[1], api_key="unused", max_retries=0, http_client=http)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def ask(client: openai.OpenAI, text: str, **more: object) -> ChatCompletion:
    body = {"extra_body": OFF} | more
    answered = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        **body,  # type: ignore[call-overload]
    )
    assert isinstance(answered, ChatCompletion)
    return answered


def test_names(client: openai.OpenAI) -> None:
    names = {MODEL, "deepseek-chat", "deepseek-reasoner"}
    assert {model.id for model in client.models.list()} >= names
    for name in (*names, "scripted:faults"):
        body = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "x"}]
        )
        assert (body.model, body.choices[0].message.content) == (MODEL, "You said: x")


def test_streamed_equals_plain(client: openai.OpenAI) -> None:
    answer = ask(client, "Hi 你好").choices[0]
    assert (answer.message.content, answer.finish_reason) == ("You said: Hi 你好", "stop")
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi 你好"}],
        stream=True,
        extra_body=OFF,
    )
    deltas = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
    assert "".join(deltas) == "You said: Hi 你好"
    assert len(deltas) > 10


def test_thinking_is_told_apart(client: openai.OpenAI) -> None:
    answer = ask(
        client, "[[think: Hm.]][[say: Yes.]]", extra_body={"thinking": {"type": "enabled"}}
    )
    message = answer.choices[0].message
    assert (message.content, message.model_extra) == ("Yes.", {"reasoning_content": "Hm."})
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == len("Hm.") + 1
    assert answer.usage.completion_tokens == len("Hm.") + 1 + len("Yes.") + 1


def test_choices_seeds_and_logprobs(client: openai.OpenAI) -> None:
    answers = [ask(client, "[[random: 20]]", n=2, seed=seed) for seed in (1, 1, 2)]
    texts = [tuple(choice.message.content for choice in a.choices) for a in answers]
    assert texts[0] == texts[1]
    assert len({*texts[0], *texts[2]}) == 4
    answer = ask(client, "[[say: ab]]", logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [(entry.token, entry.bytes) for entry in logprobs.content or []] == [
        ("a", [97]),
        ("b", [98]),
    ]


def test_limits_end_answers(client: openai.OpenAI) -> None:
    answer = ask(client, "[[count: 3]]", stop=[" word3"]).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("word1 word2", "stop")
    answer = ask(client, "[[count: 3]]", max_tokens=5).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("word1", "length")


def test_a_conversation_is_found_in_the_cache(client: openai.OpenAI) -> None:
    first = ask(client, "[[count: 20]]")
    said = first.choices[0].message.content
    second = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": "[[count: 20]]"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "Go on"},
        ],
        extra_body=OFF,
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens // 64 * 64


def test_failures_are_errors_and_the_server_goes_on(client: openai.OpenAI) -> None:
    for failure in ("[[fail]]", "[[fail: all]]"):
        with pytest.raises(openai.InternalServerError):
            ask(client, f"[[say: abc]]{failure}")
    answer = ask(client, "[[say: abc]][[die]][[say: def]]")
    assert answer.choices[0].message.content == "abcdef"
