"""What a stream that is cut short says was used: the engine's own count, or what is known of it.

Over the real process and protocol, most with the scripted engine; its pace and faults bring a
request to where it is cut.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.engine.model_folder import write_model_folder
from tests.engine.test_process import config, running
from tests.models.tiny import tiny_tokens
from tribody.core.config import EngineConfig, ScriptConfig
from tribody.core.errors import BadRequest, EngineFailed, Overloaded
from tribody.core.request import Event, Request, SamplingParams, Usage
from tribody.engine.client import EngineClient, Patience
from tribody.engine.event_stream import EventStream
from tribody.engine.scripted_text import tokenizer_source
from tribody.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_source(tokenizer_source())


def asking(text: str, rid: str = "a", n: int = 1, pooling: bool = False, **more: object) -> Request:
    settings = {"max_tokens": 0 if pooling else 4000} | more
    return Request(
        id=rid,
        prompt_token_ids=TOKENIZER.encode(
            f"<｜begin▁of▁sentence｜><｜User｜>{text}<｜Assistant｜>", add_special_tokens=False
        ),
        sampling=SamplingParams(**settings),  # type: ignore[arg-type]
        n=n,
        pooling="mean" if pooling else "none",
    )


ENDLESS = "[[repeat: 3000 abc ]]"


@asynccontextmanager
async def scripted(
    patience: Patience | None = None, rate: float = 500, **more: object
) -> AsyncIterator[EngineClient]:
    script = ScriptConfig(faults=True, tokens_per_second=rate)
    settings = EngineConfig(model_path="scripted", script=script, **more)  # type: ignore[arg-type]
    quick = Patience(restart_seconds=0.0, watch_seconds=0.05, silence_seconds=60)
    async with running(settings, patience or quick) as client:
        yield client


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def take_rest(stream: EventStream, events: list[Event]) -> None:
    async for event in stream:
        events.append(event)


async def rest(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


async def after(stream: EventStream, num_events: int) -> list[Event]:
    return [await anext(stream) for _ in range(num_events)]


def kill(client: EngineClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


def told(events: list[Event]) -> int:
    return sum(len(event.token_ids) for event in events)


def ends(events: list[Event]) -> list[str]:
    return [event.finish_reason for event in events if event.finish_reason is not None]


async def settled(client: EngineClient) -> None:
    """Nothing is left of any request, on either side."""
    while client.stats.running or client.stats.waiting or client.stats.pages_used:
        await asyncio.sleep(0.001)
    assert not client._active
    assert client._idle.is_set()


def test_an_aborted_stream_ends_with_the_count_of_the_engine() -> None:
    """In the middle of three choices: every token that was drawn reaches the caller."""

    async def test() -> None:
        async with scripted() as client:
            stream = client.submit(asking(ENDLESS, n=3))
            events = await after(stream, 20)
            stream.abort()
            stream.abort()
            events += await rest(stream)
            assert ends(events) == ["abort"] * 3
            usage = events[-1].usage
            assert usage == stream.known()
            assert usage is not None
            assert usage.completion_tokens == told(events) > 20
            assert usage.prefilled
            await settled(client)
            assert client.stats.generated_tokens == usage.completion_tokens

    run(test)


def test_what_never_ran_has_used_nothing() -> None:
    """Behind another in the queue; and while its grammar is prepared, or just after."""

    async def test() -> None:
        async with scripted(max_running=1, max_step_tokens=64) as client:
            first = client.submit(asking(ENDLESS, "first"))
            await anext(first)
            queued = client.submit(asking(ENDLESS, "queued"))
            held = client.submit(asking("x", "held", grammar="start: /[a-z ]+/"))
            embedding = client.submit(asking("x", "pooled", pooling=True))
            for stream in (queued, held, embedding):
                assert not stream.known().prefilled
                stream.abort()
                events = await rest(stream)
                assert ends(events) == ["abort"]
                usage = events[-1].usage
                assert usage is not None
                assert (usage.completion_tokens, usage.cached_tokens) == (0, 0)
                assert not usage.prefilled
            await first.aclose()
            await settled(client)

    run(test)


def test_a_prompt_that_is_cut_short_is_not_prefilled() -> None:
    """Chunks of 64 tokens, 20 steps a second."""

    async def test() -> None:
        async with scripted(rate=20, max_step_tokens=64) as client:
            for pooling in (False, True):
                stream = client.submit(asking("x" * 4000, f"long {pooling}", pooling=pooling))
                while not client.stats.running:
                    await asyncio.sleep(0.01)
                assert client.stats.prompt_tokens
                stream.abort()
                (event,) = await rest(stream)
                assert event.usage is not None
                assert not event.usage.prefilled
                await settled(client)
            assert client.stats.generated_tokens == 0

    run(test)


def test_a_request_that_ended_is_not_aborted() -> None:
    async def test() -> None:
        async with scripted(rate=0) as client:
            stream = client.submit(asking("[[say: hello]]"))
            while client._active:
                await asyncio.sleep(0.001)
            usage = stream.known()
            assert usage.completion_tokens == 6
            stream.abort()
            events = await rest(stream)
            assert ends(events) == ["stop"]
            assert events[-1].usage == usage
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(test)


def test_errors_end_with_the_count_of_the_engine() -> None:
    """Of one choice, of a whole step, and of a grammar that the vocabulary cannot follow."""

    async def test() -> None:
        async with scripted(rate=0) as client:
            for wanted, num_tokens, prefilled in [
                (asking("[[say: ab]][[fail]]", "a"), 2, True),
                (asking("[[fail]]", "b"), 0, True),
                (asking("[[say: ab]][[fail: all]]", "c"), 2, True),
                (asking("x", "d", grammar="start: nothing"), 0, False),
            ]:
                stream = client.submit(wanted)
                events = await rest(stream)
                usage = events[-1].usage
                assert ends(events) == ["error"]
                assert usage == stream.known()
                assert usage is not None
                assert (usage.completion_tokens, usage.prefilled) == (num_tokens, prefilled)
                await settled(client)

    run(test)


@pytest.mark.parametrize("late", [False, True])
def test_an_engine_that_dies_before_the_abort_leaves_what_is_known(late: bool) -> None:
    """The stopped engine cannot answer the abort.  It dies after it, or had died before."""

    async def test() -> None:
        async with scripted() as client:
            stream, other = (client.submit(asking(ENDLESS, rid, n=2)) for rid in "ab")
            unheard = client.submit(asking("x", "c"))
            events = await after(stream, 9)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGSTOP)
            started = client.restarts
            if late:
                kill(client)
                while client.ready:
                    await asyncio.sleep(0)
            for cut in (stream, unheard):
                cut.abort()
            if not late:
                kill(client)
            events += await rest(stream)
            assert client.restarts == started, "it ended before the engine was up again"
            assert ends(events) == ["abort", "abort"]
            assert events[-1].usage == stream.known()
            assert stream.known().completion_tokens == told(events)
            assert stream.known().prefilled
            assert ends(await rest(unheard))[-1:] in (["abort"], ["stop"])
            more = await after(other, 40)
            assert client.ready, "the other goes on"
            assert client.restarts == started + 1
            other.abort()
            more += await rest(other)
            usage = more[-1].usage
            assert usage is not None
            assert usage.completion_tokens == told(more)
            await settled(client)

    run(test)


def test_an_abort_before_the_engine_is_up_ends_at_once() -> None:
    async def test() -> None:
        config = EngineConfig(model_path="scripted", script=ScriptConfig())
        client = EngineClient.launch(config)
        stream = client.submit(asking(ENDLESS, n=2))
        stream.abort()
        first, last = await rest(stream)
        assert client.pid is None
        assert (first.usage, last.usage) == (None, stream.known())
        assert not stream.known().prefilled
        assert not client._active
        await client.started()
        assert (client.stats.running, client.stats.waiting) == (0, 0)
        await client.close(0)

    run(test)


def test_what_is_known_outlives_a_failure() -> None:
    """An engine that is killed by this request, again and again; and a server that closes."""

    async def test() -> None:
        patience = Patience(restart_seconds=0.0, max_resumes=0)
        async with scripted(patience) as client:
            stream = client.submit(asking(ENDLESS))
            events = await after(stream, 5)
            kill(client)
            with pytest.raises(EngineFailed, match="failed 1 times"):
                await take_rest(stream, events)
            usage = stream.known()
            assert (usage.completion_tokens, usage.prefilled) == (told(events), True)
            closed, cut = (client.submit(asking(ENDLESS, rid)) for rid in "bc")
            await after(closed, 3)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGSTOP)
            cut.abort()
            await client.close(0)
            assert ends(await rest(cut)) == ["abort"]
            with pytest.raises(EngineFailed, match="shutting down"):
                await rest(closed)
            assert closed.known().completion_tokens >= 3

    run(test)


def test_refusals_have_used_nothing_and_requests_count_until_they_end() -> None:
    async def test() -> None:
        async with scripted(max_running=1, max_waiting=1) as client:
            refused = client.submit(asking("x", n=2))
            refused.abort()
            with pytest.raises(BadRequest, match="n is 2"):
                await rest(refused)
            assert refused.known() == Usage(
                prompt_tokens=len(asking("x").prompt_token_ids),
                cached_tokens=0,
                completion_tokens=0,
                prefilled=False,
            )
            first = client.submit(asking(ENDLESS, "a"))
            await anext(first)
            second = client.submit(asking(ENDLESS, "b"))
            second.abort()
            with pytest.raises(Overloaded):
                client.submit(asking("x", "c"))
            await rest(second)
            with pytest.raises(BadRequest, match="already in use"):
                client.submit(asking("x", "a"))
            third = client.submit(asking(ENDLESS, "b"))
            await second.aclose()
            assert "b" in client._active, "the id is another's by now"
            await first.aclose()
            assert first.known().completion_tokens >= 1
            await anext(third)
            third.abort()
            await third.aclose()
            await settled(client)

    run(test)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model") / "v3", "v3-q-lora")


def test_a_real_model_counts_as_its_scheduler_does(folder: Path) -> None:
    """Streams of all kinds, with drafts and too few pages, cut at all times, one engine killed.

    The next engine's books begin anew, so those of the first are read as long as it lives.
    """

    async def test() -> None:
        async with running(config(folder, kv_budget_bytes=1 << 18)) as client:
            before = client.stats

            async def cut(index: int) -> tuple[Usage, int]:
                wanted = Request(
                    id=f"r{index}",
                    prompt_token_ids=tiny_tokens(7, seed=index % 5) * (2 + index),
                    sampling=SamplingParams(
                        max_tokens=300,
                        seed=index,
                        ignore_eos=True,
                        grammar="start: /[a-z ]*/" if index % 3 == 0 else None,
                    ),
                    n=1 + index % 3,
                )
                stream = client.submit(wanted)
                events = await after(stream, 9 * index)
                stream.abort()
                events += await rest(stream)
                assert ends(events) == ["abort"] * wanted.n
                usage = events[-1].usage
                assert usage is not None
                assert usage.prefilled == (told(events) > 0)
                return usage, told(events)

            async def kill_once() -> None:
                nonlocal before
                while client.stats.generated_tokens < 200:
                    await asyncio.sleep(0)
                kill(client)
                while client.ready:
                    before = client.stats
                    await asyncio.sleep(0)

            killing = asyncio.create_task(kill_once())
            results = await asyncio.gather(*(cut(i) for i in range(12)))
            await killing
            for usage, num_told in results:
                assert usage.completion_tokens == num_told
            await settled(client)
            counted = sum(usage.completion_tokens for usage, _ in results)
            assert counted == before.generated_tokens + client.stats.generated_tokens
            assert before.preemptions + client.stats.preemptions > 0
            assert client.restarts == 1

    run(test)
