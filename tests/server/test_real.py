"""The whole server on SmolLM2, in a process of its own, with openai-python as its client."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.weights

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Tell me a short story about a fox."}
]
MODEL = "smollm2"
READY_SECONDS = 60


@dataclass
class RealServer:
    """`tribody serve smollm2` as a user starts it."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]

    def client(self) -> openai.OpenAI:
        http = httpx2.Client(verify=False, timeout=60.0)
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="unused", max_retries=0, http_client=http
        )

    def gauge(self, name: str) -> float:
        text = httpx2.get(f"{self.url}/metrics", verify=False).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    return sample.value
        raise AssertionError(name)


def start() -> RealServer:
    command = [sys.executable, "-m", "tribody.cli.main", "serve", MODEL, "--port", "0"]
    command += ["--api", "errors=openai,usage=openai,sampling=openai"]
    process = subprocess.Popen(
        [*command, "--kv-memory", "64MiB", "--max-context", "1024"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if "TRIBODY" not in name},
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.rstrip())
        if "curl" in line:
            break
    found = re.search(r"ready at (http://\S+)/v1", "\n".join(said))
    assert found, said
    return RealServer(process, found[1], said)


@pytest.fixture(scope="module")
def real() -> Iterator[RealServer]:
    server = start()
    yield server
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0


@pytest.fixture
def client(real: RealServer) -> openai.OpenAI:
    return real.client()


def test_ready_line(real: RealServer) -> None:
    text = "\n".join(real.said)
    assert "SmolLM2-135M-Instruct, smollm2" in text
    assert "w8g32" in text
    assert "curl -N" in text


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["SmolLM2-135M-Instruct"]
    assert client.models.retrieve(MODEL).id == "SmolLM2-135M-Instruct"


def test_streamed_equals_plain(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=24
    )
    text = plain.choices[0].message.content
    assert text
    assert plain.choices[0].finish_reason == "length"
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 24
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24


def test_stop(client: openai.OpenAI) -> None:
    whole = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24
    )
    text = whole.choices[0].text
    stop = text[5:9]
    cut = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24, stop=[stop]
    )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_seed_gives_the_same_answer_alone_and_in_a_batch(real: RealServer) -> None:
    def ask(seed: int) -> str | None:
        answer = real.client().chat.completions.create(
            model=MODEL, messages=QUESTION, seed=seed, max_tokens=16
        )
        return answer.choices[0].message.content

    alone = ask(1)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, [1, 2, 3, 4, 5, 1]))
    assert together[0] == together[5] == alone
    assert len(set(together)) > 1


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    for entry in content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token  # greedy takes the likeliest
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[2].logprob


def test_n_choices_share_a_prompt_and_differ(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, n=2, seed=3, max_tokens=16
    )
    first, second = (choice.message.content for choice in answer.choices)
    assert first != second
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 32


def test_the_second_identical_prompt_hits_the_cache(client: openai.OpenAI) -> None:
    text = "The fox and the hound. " * 20
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": text}]
    usages = [
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2).usage
        for _ in range(2)
    ]
    assert usages[0] is not None
    assert usages[1] is not None
    details = usages[1].prompt_tokens_details
    assert details is not None
    assert details.cached_tokens is not None
    assert details.cached_tokens >= 64
    assert usages[1].model_extra is not None
    assert usages[1].model_extra["prompt_cache_hit_tokens"] == details.cached_tokens


def test_an_aborted_stream_frees_its_pages(real: RealServer) -> None:
    client = real.client()
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    for _, _chunk in zip(range(4), stream, strict=False):
        pass
    stream.close()
    client.close()
    for _ in range(200):
        if not real.gauge("tribody_requests_running"):
            break
    assert real.gauge("tribody_requests_running") == 0
    # The books are per step: an idle engine's last words are those of the abort.
    assert real.gauge("tribody_kv_pages_used") == 0


def test_context_boundary(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt=[100] * 1024)
    assert refused.value.code == "context_length_exceeded"
    fits = client.completions.create(model=MODEL, prompt=[100] * 1023)
    assert fits.usage is not None
    assert fits.usage.completion_tokens == 1


def engine_pid(server: RealServer) -> int:
    """The engine process among the server's children."""
    threads = Path(f"/proc/{server.process.pid}/task")
    children = [
        pid for task in threads.iterdir() for pid in (task / "children").read_text().split()
    ]
    engines = [p for p in children if b"engine.process" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert len(engines) == 1
    return int(engines[0])


@pytest.mark.slow
def test_streams_survive_the_engine_being_killed_three_times() -> None:
    server = start()
    prompts = [f"Once upon a time in a land {i} miles away," for i in range(8)]

    def ask(prompt: str, stream: bool) -> str:
        answer = server.client().completions.create(
            model=MODEL, prompt=prompt, temperature=0, max_tokens=100, stream=stream
        )
        if isinstance(answer, openai.Stream):
            return "".join(chunk.choices[0].text for chunk in answer)
        return answer.choices[0].text

    expected = [ask(prompt, False) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask, prompt, True) for prompt in prompts]
        for kill in range(3):
            while server.gauge("tribody_requests_running") < 8:
                assert not any(future.done() for future in running)
            os.kill(engine_pid(server), signal.SIGKILL)
            while server.gauge("tribody_engine_restarts_total") < kill + 1:
                pass
        assert [future.result(120) for future in running] == expected
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0


@pytest.mark.slow
def test_two_hundred_clients_that_leave_at_random_points(real: RealServer) -> None:
    draw = random.Random(5)
    points = [draw.choice([0, 0, 1, 2, 5, 20]) for _ in range(200)]

    def leave_after(num_chunks: int) -> None:
        address = urlsplit(real.url)
        fields = {"model": MODEL, "messages": QUESTION, "max_tokens": 200, "ignore_eos": True}
        body = json.dumps({**fields, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        with socket.create_connection((address.hostname, address.port or 80), 60) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            received = b""
            while received.count(b"data: ") < num_chunks:
                part = connection.recv(65536)
                assert part, "the server closed the connection"
                received += part

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(leave_after, points))
    for _ in range(2000):
        if not real.gauge("tribody_requests_running") + real.gauge("tribody_requests_waiting"):
            break
    assert real.gauge("tribody_kv_pages_used") == 0
    free, cached = real.gauge("tribody_kv_pages_free"), real.gauge("tribody_kv_pages_cached")
    assert free + cached == real.gauge("tribody_kv_pages_total")
    assert real.gauge("tribody_engine_restarts_total") == 0


def test_interrupt_while_streaming_finishes_the_stream() -> None:
    server = start()
    stream = server.client().chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=40, stream=True
    )
    chunks = [next(iter(stream))]
    server.process.send_signal(signal.SIGINT)
    chunks += list(stream)
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert server.process.wait(20) == 0
