"""The engine process under kill -9, hangs and disconnects, with real (tiny) models.

Llama stands for grouped-query attention; DeepSeek-V3 has two forms of attention, so a replay must
repeat each token in the form that generated it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from tests.engine.model_folder import byte_tokenizer, write_model_folder
from tests.models.tiny import tiny_tokens
from tribody.core.config import EngineConfig
from tribody.core.errors import BadModel, BadRequest, EngineFailed
from tribody.core.request import Event, Request, SamplingParams
from tribody.engine.client import EngineClient, Patience

LETTERS = frozenset(
    byte_tokenizer().encode("abcdefghijklmnopqrstuvwxyz ", add_special_tokens=False).ids
)
PATIENCE = Patience(silence_seconds=60, restart_seconds=0.0)


def config(folder: Path, **more: object) -> EngineConfig:
    settings = {
        "weight_format": "float32",
        "kv_format": "float32",
        "num_threads": 1,
        "kv_budget_bytes": 1 << 24,
    } | more
    return EngineConfig(model_path=str(folder), **settings)  # type: ignore[arg-type]


def request(index: int, max_tokens: int, **sampling: object) -> Request:
    settings = {"temperature": 0.0, "ignore_eos": True} | sampling
    params = SamplingParams(max_tokens=max_tokens, seed=index, **settings)  # type: ignore[arg-type]
    prompt = tiny_tokens(20 + 37 * (index % 5), seed=index)
    return Request(id=f"r{index}", prompt_token_ids=prompt, sampling=params)


@asynccontextmanager
async def running(
    settings: EngineConfig, patience: Patience = PATIENCE
) -> AsyncIterator[EngineClient]:
    client = await EngineClient.start(settings, patience=patience)
    try:
        yield client
    finally:
        await client.close(0)


async def collect(
    client: EngineClient, wanted: Request, seen: Callable[[], None] = lambda: None
) -> tuple[list[int], Event]:
    tokens: list[int] = []
    async for event in client.submit(wanted):
        tokens += event.token_ids
        last = event
        seen()
    return tokens, last


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 240))


@pytest.fixture(scope="module", params=["llama", "v3-q-lora"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_eight_streams_survive_three_kills(folder: Path, temperature: float) -> None:
    """Greedy and seeded streams alike end with the tokens that they would have had, undisturbed
    and without speculation."""
    grammars = [None, "start: /[a-z ]*/"]
    requests = [request(i, 80, temperature=temperature, grammar=grammars[i % 2]) for i in range(8)]
    expected: list[tuple[list[int], Event]] = []
    resumed: list[tuple[list[int], Event]] = []
    kills = 0

    async def undisturbed() -> None:
        async with running(config(folder, speculation="off")) as client:
            expected.extend(await asyncio.gather(*(collect(client, r) for r in requests)))

    async def disturbed() -> None:
        async with running(config(folder)) as client:

            def kill_at_times() -> None:
                nonlocal kills
                num_tokens = client.stats.generated_tokens  # since the engine's last start
                begun_anew = client.ready and client.restarts == kills
                if kills < 3 and begun_anew and num_tokens >= 100 and client.pid is not None:
                    os.kill(client.pid, signal.SIGKILL)
                    kills += 1

            resumed.extend(
                await asyncio.gather(*(collect(client, r, kill_at_times) for r in requests))
            )
            assert client.restarts == kills

    run(undisturbed())
    run(disturbed())
    assert kills == 3
    for (tokens, last), (tokens_again, last_again) in zip(expected, resumed, strict=True):
        assert tokens_again == tokens
        assert last_again.usage == last.usage
        assert len(tokens) == 80
    for tokens, _ in resumed[1::2]:
        assert LETTERS.issuperset(tokens)


def test_a_hung_process_is_replaced(folder: Path) -> None:
    async def test() -> None:
        patience = Patience(silence_seconds=3.0, restart_seconds=0.0, watch_seconds=0.05)
        async with running(config(folder), patience) as client:
            alone, _ = await collect(client, request(1, 60))
            stopped = False

            def stop_once() -> None:
                nonlocal stopped
                if not stopped and client.pid is not None:
                    os.kill(client.pid, signal.SIGSTOP)
                    stopped = True

            again, _ = await collect(client, request(2, 60), stop_once)
            assert client.restarts == 1
            assert len(again) == len(alone) == 60

    run(test())


def test_a_request_to_a_process_that_has_just_died(folder: Path) -> None:
    """Its socket is closed before anybody has seen why; uvloop refuses to write to it."""

    async def test() -> None:
        async with running(config(folder)) as client:
            assert client._writer is not None
            client._writer.transport.abort()
            await asyncio.sleep(0)
            tokens, _ = await collect(client, request(1, 20))
            assert len(tokens) == 20
            assert client.restarts == 1

    uvloop.run(asyncio.wait_for(test(), 240))


@pytest.mark.weights
def test_two_hundred_disconnects_give_their_pages_back_within_two_steps(smollm2_path: Path) -> None:
    """A real model, whose steps take longer than the way of a message."""

    async def test() -> None:
        rng = random.Random(5)
        print("seed 5")
        settings = EngineConfig(model_path=str(smollm2_path), kv_budget_bytes=1 << 28)
        slowest = 0
        async with running(settings) as client:
            for index in range(200):
                leaving = Request(
                    id=f"r{index}",
                    prompt_token_ids=tiny_tokens(rng.randrange(5, 80), seed=index),
                    sampling=SamplingParams(max_tokens=200, ignore_eos=True),
                )
                stream = client.submit(leaving)
                for _ in range(rng.randrange(0, 5)):
                    await anext(stream)
                await asyncio.sleep(rng.random() * 0.02)
                await stream.aclose()
                steps = client.stats.steps
                while client.stats.pages_used or client.stats.running or client.stats.waiting:
                    await asyncio.sleep(0.001)
                slowest = max(slowest, client.stats.steps - steps)
        # One step may be under way when the abort is sent; it takes effect before the next.
        assert slowest <= 2

    run(test())


def test_an_engine_that_cannot_start_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    async def test() -> None:
        folder = write_model_folder(tmp_path / "broken", "llama")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(BadModel, match=r"model\.safetensors"):
            await EngineClient.start(config(folder), patience=PATIENCE)

    run(test())


def test_refusals_reach_the_caller_and_the_engine_goes_on(folder: Path) -> None:
    async def test() -> None:
        async with running(config(folder)) as client:
            too_long = Request(
                id="x",
                prompt_token_ids=[1] * 5000,
                sampling=SamplingParams(max_tokens=4),
            )
            with pytest.raises(BadRequest, match="5000 tokens"):
                await collect(client, too_long)
            tokens, last = await collect(client, request(1, 4))
            assert len(tokens) == 4
            assert last.finish_reason == "length"

    run(test())


def test_close_drains_and_then_refuses(folder: Path) -> None:
    async def test() -> None:
        client = await EngineClient.start(config(folder), patience=PATIENCE)
        running_one = asyncio.create_task(collect(client, request(1, 50)))
        await asyncio.sleep(0)
        await client.close(30)
        assert len((await running_one)[0]) == 50
        with pytest.raises(EngineFailed, match="shutting down"):
            client.submit(request(2, 5))

    run(test())


def test_an_embedding_survives_a_kill(folder: Path) -> None:
    """Nothing of it is known to the server before it is whole, so it is computed anew."""
    sampling = SamplingParams(max_tokens=0)
    prompt = tiny_tokens(150, seed=4)
    wanted = Request(id="e", prompt_token_ids=prompt, sampling=sampling, pooling="mean")

    async def embed_while_killed() -> None:
        async with running(config(folder)) as client:
            _, calm = await collect(client, wanted)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGSTOP)
            stream = client.submit(wanted)
            os.kill(client.pid, signal.SIGKILL)
            (last,) = [event async for event in stream]
            assert client.restarts == 1
            assert calm.embedding is not None
            assert last.embedding == calm.embedding

    run(embed_while_killed())
