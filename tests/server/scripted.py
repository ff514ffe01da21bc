"""A scripted engine with `EngineClient`'s face, a byte tokenizer, and a server in a thread.

The scripted engine answers with given texts, one token (one byte) per event, and obeys stop
strings, max_tokens, n, logprobs and closing; a test can hold it, make it fail or make it refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tribody.core.api_settings import ApiSettings
from tribody.core.engine_info import EngineInfo, EngineStats
from tribody.core.errors import EngineFailed
from tribody.core.request import Event, Request, TokenLogprob, Usage
from tribody.core.tokenizer_source import TokenizerSource
from tribody.server.accounts import Accounts, Records
from tribody.server.aliases import Alias
from tribody.server.auth import KeyFile
from tribody.server.data_folder import DataFolder
from tribody.server.listening import bind
from tribody.server.models_table import ServedModel
from tribody.server.offline import Offline
from tribody.server.serve import DrainingServer, make_service, server_for
from tribody.text.answer_stream import AnswerStream
from tribody.text.chat_template import chat_template_for
from tribody.text.tokenizer import Tokenizer

EOS = "<|im_end|>"
SPECIALS = [EOS, "<|im_start|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CONTEXT = 1024
OPENAI = ApiSettings(errors="openai", usage="openai", sampling="openai")


def byte_source(chat_template: str | None = CHATML) -> TokenizerSource:
    """A byte-level tokenizer: 256 tokens that are bytes, then the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS))
    config: dict[str, object] = {"eos_token": EOS, "bos_token": None}
    if chat_template is not None:
        config["chat_template"] = chat_template
    return TokenizerSource(
        tokenizer_json=inner.to_str().encode(),
        tokenizer_config=config,
        chat_template=chat_template,
    )


def answer_for(request: Request, choice: int) -> str:
    """The default script: depends on seed and choice, so that a test sees both arrive."""
    if request.sampling.temperature == 0:
        return "Hello, world. 你好!"
    return f"seed {request.sampling.seed} choice {choice}."


@dataclass
class Held:
    """Lets a test stop every answer after `after` tokens until `release`."""

    after: int
    loop: asyncio.AbstractEventLoop | None = None
    gate: asyncio.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)

    async def wait(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gate = self.gate or asyncio.Event()
        self.reached.set()
        await self.gate.wait()

    def release(self) -> None:
        assert self.loop is not None, "nothing is held yet"
        assert self.gate is not None
        self.loop.call_soon_threadsafe(self.gate.set)


class ScriptedStream:
    """The events of one request, as `engine.client.EventStream` has them."""

    def __init__(self, engine: ScriptedEngine, request: Request) -> None:
        self._engine = engine
        self._request = request
        self._events = engine.events(request)
        self._abort = asyncio.Event()
        self._ended = False
        self._known = Usage(
            prompt_tokens=len(request.prompt_token_ids),
            cached_tokens=0,
            completion_tokens=0,
            prefilled=False,
        )

    def __aiter__(self) -> ScriptedStream:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        step = asyncio.ensure_future(anext(self._events))
        aborted = asyncio.ensure_future(self._abort.wait())
        try:
            await asyncio.wait({step, aborted}, return_when=asyncio.FIRST_COMPLETED)
            event = step.result() if step.done() else self._aborted()
        except BaseException:
            self._end(aborted=True)
            raise
        finally:
            step.cancel()
            aborted.cancel()
            await asyncio.gather(step, aborted, return_exceptions=True)
        if event.usage is None:
            told = len(event.token_ids)
            self._known = msgspec.structs.replace(
                self._known,
                cached_tokens=event.cached_tokens or self._known.cached_tokens,
                completion_tokens=self._known.completion_tokens + told,
                prefilled=self._known.prefilled or told > 0,
            )
        else:
            self._known = event.usage
            self._end(aborted=event.finish_reason == "abort")
        return event

    def _aborted(self) -> Event:
        return Event(
            request_id=self._request.id,
            choice=0,
            token_ids=[],
            finish_reason="abort",
            usage=self._known,
        )

    def _end(self, *, aborted: bool) -> None:
        if not self._ended:
            self._ended = True
            self._engine.ended(self._request, aborted=aborted)

    def abort(self) -> None:
        self._abort.set()

    async def aclose(self) -> None:
        self._end(aborted=True)
        await self._events.aclose()

    def known(self) -> Usage:
        return self._known


class ScriptedEngine:
    """See the module's docstring.  Attributes are the test's levers; set them between requests."""

    def __init__(self, tokenizer: Tokenizer, model_id: str = "scripted") -> None:
        self.tokenizer = tokenizer
        self.info = EngineInfo(
            model_id=model_id,
            model_type="llama",
            vocab_size=tokenizer.vocab_size,
            hidden_size=4,
            max_context_tokens=CONTEXT,
            weight_format="float32",
            kv_format="float32",
            weight_bytes=1 << 20,
            kv_limit="as configured",
            kv_budget_bytes=1 << 20,
            num_pages=16,
            page_size=64,
            max_running=8,
            num_threads=1,
            isa="script",
            load_seconds=0.1,
            fingerprint="f" * 64,
        )
        self.stats = EngineStats(pages_total=16, pages_free=16)
        self.ready = True
        self.restarts = 0
        self.closed = False
        self._active: dict[str, asyncio.Event] = {}
        self.reset()

    def reset(self) -> None:
        """Back to the default script, nothing remembered."""
        self.script: Callable[[Request, int], str] = answer_for
        self.refuse: Exception | None = None
        self.fail_after: int | None = None
        self.die_after: int | None = None
        self.hold: Held | None = None
        self.submitted: list[Request] = []
        self.aborted: list[str] = []
        self.abort_seen = threading.Event()
        self._known: set[tuple[str, tuple[int, ...]]] = set()

    def submit(self, request: Request) -> ScriptedStream:
        self.submitted.append(request)
        if self.refuse is not None:
            raise self.refuse
        self._active[request.id] = asyncio.Event()
        return ScriptedStream(self, request)

    def ended(self, request: Request, *, aborted: bool) -> None:
        self._active.pop(request.id, None)
        if aborted:
            self.aborted.append(request.id)
            self.abort_seen.set()

    async def events(self, request: Request) -> AsyncGenerator[Event, None]:
        if request.pooling != "none":
            yield await self._embedding(request)
            return
        key = (request.cache_salt, tuple(request.prompt_token_ids))
        cached = len(request.prompt_token_ids) - 1 if key in self._known else 0
        self._known.add(key)
        plans = [self._plan(request, choice) for choice in range(request.n)]
        total = sum(len(ids) for ids, _ in plans)
        open_choices = request.n
        for step in range(max(len(ids) for ids, _ in plans)):
            await self._interfere(request, step)
            for choice, (ids, reason) in enumerate(plans):
                if step >= len(ids):
                    continue
                last = step == len(ids) - 1
                open_choices -= last
                usage = Usage(
                    prompt_tokens=len(request.prompt_token_ids),
                    cached_tokens=cached,
                    completion_tokens=total,
                )
                failing = self.fail_after == step
                yield Event(
                    request_id=request.id,
                    choice=choice,
                    token_ids=[ids[step]],
                    logprobs=self._logprobs(request, ids[step]),
                    finish_reason="error" if failing else reason if last else None,  # type: ignore[arg-type]
                    usage=usage if failing or (last and not open_choices) else None,
                    error="the secret is /etc/passwd" if failing else None,
                    ended_by_token=last and ids[step] in self.tokenizer.eos_token_ids,
                )
                if failing:
                    return

    async def _embedding(self, request: Request) -> Event:
        """The numbers 1, 2, 3 and how many tokens there are."""
        await self._interfere(request, 0)
        num_tokens = len(request.prompt_token_ids)
        failing = self.fail_after == 0
        return Event(
            request_id=request.id,
            choice=0,
            token_ids=[],
            finish_reason="error" if failing else "stop",
            usage=Usage(prompt_tokens=num_tokens, cached_tokens=0, completion_tokens=0),
            error="the secret is /etc/passwd" if failing else None,
            embedding=None if failing else struct.pack("<4f", 1, 2, 3, num_tokens),
        )

    async def _interfere(self, request: Request, step: int) -> None:
        await asyncio.sleep(0)
        if self.hold is not None and step == self.hold.after:
            waiting = asyncio.ensure_future(self.hold.wait())
            closing = asyncio.ensure_future(self._active[request.id].wait())
            try:
                await asyncio.wait({waiting, closing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                closing.cancel()
        if self.die_after == step or self._active[request.id].is_set():
            raise EngineFailed("exit status 9 at 0x7ffd /home/me")

    def _plan(self, request: Request, choice: int) -> tuple[list[int], str]:
        """Token ids and finish reason of one choice."""
        sampling = request.sampling
        text = self.script(request, choice)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        ids.append(next(iter(self.tokenizer.eos_token_ids)))
        stream = AnswerStream(self.tokenizer, sampling.stop, sampling.thinking, sampling.markers)
        for i, token_id in enumerate(ids):
            stream.push([token_id])
            if stream.stopped:
                return ids[: i + 1], "stop"
            if i + 1 == sampling.max_tokens:
                return ids[: i + 1], "length"
        return ids, "stop"

    def _logprobs(self, request: Request, token_id: int) -> list[TokenLogprob] | None:
        count = request.sampling.num_logprobs
        if count < 0:
            return None
        top = [(token_id, -0.25), *((i, float("-inf")) for i in range(count - 1))]
        return [TokenLogprob(token_id, -0.25, top[:count])]

    async def close(self, drain_seconds: float) -> None:
        self.closed = True
        for ending in self._active.values():
            ending.set()


@dataclass
class RunningServer:
    """A real server on an ephemeral loopback port, in a thread of this process."""

    url: str
    engine: ScriptedEngine
    server: DrainingServer
    thread: threading.Thread

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()


def scripted_model(
    model_id: str = "scripted", chat_template: str | None = CHATML
) -> tuple[ServedModel, ScriptedEngine]:
    source = byte_source(chat_template)
    tokenizer = Tokenizer.from_source(source)
    engine = ScriptedEngine(tokenizer, model_id)
    model = ServedModel(
        model_id=model_id,
        engine=engine,
        tokenizer=tokenizer,
        chat_template=None if chat_template is None else chat_template_for(source, "llama"),
        created=1_700_000_000,
        longest_token_bytes=tokenizer.longest_token_bytes(),
    )
    return model, engine


def run_server(
    served: list[tuple[ServedModel, ScriptedEngine]],
    *,
    aliases: dict[str, str] | None = None,
    keys: KeyFile | None = None,
    api: ApiSettings = OPENAI,
    shutdown_seconds: float = 5.0,
    data_dir: Path | None = None,
    wall_seconds: Callable[[], float] = time.time,
    books: Accounts | Records | None = None,
) -> RunningServer:
    """With `books` that are accounts their keys are the server's; it closes them."""
    names = {name: Alias(target) for name, target in (aliases or {}).items()}
    accounts = books if isinstance(books, Accounts) else None
    service = make_service([model for model, _ in served], names, accounts or keys, api, books)
    service.wall_seconds = wall_seconds
    offline = None if data_dir is None else Offline.in_folder(service, DataFolder(data_dir))
    listener = bind("127.0.0.1", 0, has_keys=keys is not None)
    engines = [engine for _, engine in served]

    async def cut() -> None:
        for engine in engines:
            await engine.close(0)

    server = server_for(service, shutdown_seconds, cut, offline)

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    return RunningServer(f"http://127.0.0.1:{port}", engines[0], server, thread)


def client_of(running: RunningServer, seconds: float = 10.0) -> httpx2.Client:
    """`verify=False`: reading the machine's certificates would take longer than most tests."""
    return httpx2.Client(base_url=running.url, timeout=seconds, verify=False)


def openai_client(running: RunningServer) -> openai.OpenAI:
    http = httpx2.Client(verify=False, timeout=10.0)
    return openai.OpenAI(
        base_url=f"{running.url}/v1", api_key="unused", max_retries=0, http_client=http
    )


def sse_payloads(text: str) -> list[dict[str, Any]]:
    """The JSON payloads of an SSE body, which must end with [DONE]."""
    events = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-1]
    return [json.loads(event) for event in events[:-1]]
