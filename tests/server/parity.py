"""A server with accounts over a real engine process, and what each of the two says was used.

The engine is the scripted one, so that answers can be made to fail, to wait and to be long; its
process, protocol and scheduler are those of every engine.  `Counting` hears what it says of every
request before the server does; nothing here computes a count.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.server.bookkeeping import PRICES, Books
from tests.server.scripted import OPENAI
from tribody.core.config import EngineConfig, ScriptConfig
from tribody.core.request import Event, Request, SamplingParams, Usage
from tribody.engine.client import EngineClient, Patience
from tribody.engine.event_stream import EventStream
from tribody.engine.scripted_text import tokenizer_source
from tribody.server.data_folder import DataFolder
from tribody.server.listening import bind
from tribody.server.offline import Offline
from tribody.server.serve import make_service, serve_with, server_for
from tribody.text.tokenizer import Tokenizer

T = TypeVar("T")

SEATS = 4  # of the engine: one request in four choices takes them all
PATIENCE_SECONDS = 100.0


@dataclass(frozen=True)
class Told:
    """Tokens, as one of the three says: the client's answer, the ledger, the engine."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Told) -> Told:
        return Told(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
        )

    @staticmethod
    def of_engine(usage: Usage) -> Told:
        """The rule of the books: a prompt counts once it was computed."""
        if not usage.prefilled:
            return Told(0, 0, usage.completion_tokens)
        return Told(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    @staticmethod
    def of_row(row: dict[str, Any]) -> Told:
        return Told(row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])


class Counting(EngineClient):
    """Keeps the last word of the engine on every request of the server's."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.submitted: list[str] = []
        self.usages: dict[str, Usage] = {}

    def submit(self, request: Request) -> EventStream:
        if request.tenant:
            self.submitted.append(request.id)
        return super().submit(request)

    def _pass_on(self, event: Event) -> None:
        if event.usage is not None:
            self.usages[event.request_id] = event.usage
        super()._pass_on(event)


class Parity:
    """A running server and its engine; `close` it."""

    def __init__(self, folder: Path, *, rate: float = 0) -> None:
        self.books = Books(folder)
        self.books.use(PRICES)
        self.books.add_tenant(yuan=1_000_000)
        self.key = self.books.add_key()
        script = ScriptConfig(tokens_per_second=rate, faults=True)
        self._config = EngineConfig(
            model_path="scripted", script=script, max_running=SEATS, max_step_tokens=128
        )
        self._folder = folder
        self._ready = threading.Event()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS), "the server did not come up"

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        patience = Patience(restart_seconds=0.0, watch_seconds=0.05)
        launched = Counting.launch(self._config, patience=patience)
        assert isinstance(launched, Counting)
        self.engine = launched
        model = await serve_with(self.engine)
        accounts = self.books.accounts()
        self.service = make_service([model], {}, accounts, OPENAI, accounts)
        offline = Offline.in_folder(self.service, DataFolder(self._folder))
        listener = bind("127.0.0.1", 0, has_keys=True)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def cut() -> None:
            await self.engine.close(0)

        self._server = server_for(self.service, 5.0, cut, offline, self._ready.set)
        await self._server.serve(sockets=[listener])
        await self.engine.close(0)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    # ---- the engine

    def on_loop(self, work: Callable[[], T]) -> T:
        """`work`, where the server runs."""

        async def run() -> T:
            return work()

        return self.wait(run())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_SECONDS)

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Poll until it holds."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < ends, f"{what}: never"
            time.sleep(0.002)

    def known(self) -> list[Usage]:
        """Of the requests that are under way."""
        return self.on_loop(lambda: [active.known() for active in self.engine._active.values()])

    def kill(self) -> None:
        assert self.engine.pid is not None
        os.kill(self.engine.pid, signal.SIGKILL)

    def take_seats(self) -> EventStream:
        """A request of nobody's that runs on every seat, so that whoever comes has to wait."""
        stream = self.on_loop(
            lambda: self.engine.submit(_own_request("[[repeat: 4000 x]]", "seats", SEATS))
        )
        self.until(lambda: self.engine.stats.running == SEATS, "the seats are taken")
        return stream

    def leave_seats(self, stream: EventStream) -> None:
        async def leave() -> None:
            stream.abort()
            async for _ in stream:
                pass

        self.wait(leave())

    @contextmanager
    def failing(self) -> Iterator[None]:
        """What is submitted meanwhile shares its first steps with a request, of nobody's, that
        fails in its fourth, and with it all that run.  The engine stands still until the end."""

        async def ask() -> None:
            async for _ in self.engine.submit(_own_request("[[say: abc]][[fail: all]]", "fails")):
                pass

        assert self.engine.pid is not None
        os.kill(self.engine.pid, signal.SIGSTOP)
        asked = asyncio.run_coroutine_threadsafe(ask(), self.loop)
        self.until(lambda: "fails" in self.engine._active, "it is submitted")
        yield
        os.kill(self.engine.pid, signal.SIGCONT)
        asked.result(PATIENCE_SECONDS)


def _own_request(text: str, rid: str, n: int = 1) -> Request:
    prompt = f"<｜begin▁of▁sentence｜><｜User｜>{text}<｜Assistant｜>"
    ids = Tokenizer.from_source(tokenizer_source()).encode(prompt, add_special_tokens=False)
    sampling = SamplingParams(max_tokens=4000)
    return Request(id=rid, prompt_token_ids=ids, sampling=sampling, n=n)


# --- routes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """How one surface is asked, and where its answer tells what was used."""

    name: str
    path: str
    label: str  # in the usage record
    body: Callable[[str, int], dict[str, Any]]  # of a text and the most tokens
    told: Callable[[dict[str, Any]], Told]  # of a plain answer's body
    told_last: (
        Callable[[list[dict[str, Any]]], Told] | None
    )  # of a stream's events; None: no stream
    wrong: dict[str, Any]  # fields that are refused
    more: dict[str, Any]  # fields of its streams


def _chat(text: str, most: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": most}


def _prefix(text: str, most: int) -> dict[str, Any]:
    begun = {"role": "assistant", "content": "", "prefix": True}
    return {"messages": [{"role": "user", "content": text}, begun], "max_tokens": most}


def _openai(body: dict[str, Any]) -> Told:
    usage = body["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return Told(usage["prompt_tokens"], cached, usage["completion_tokens"])


def _responses(body: dict[str, Any]) -> Told:
    usage = body["usage"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    return Told(usage["input_tokens"], cached, usage["output_tokens"])


def _anthropic(body: dict[str, Any]) -> Told:
    usage = body["usage"]
    cached = usage["cache_read_input_tokens"]
    return Told(usage["input_tokens"] + cached, cached, usage["output_tokens"])


def _last_openai(events: list[dict[str, Any]]) -> Told:
    return _openai(next(event for event in reversed(events) if event.get("usage")))


def _last_responses(events: list[dict[str, Any]]) -> Told:
    return _responses(events[-1]["response"])


def _last_anthropic(events: list[dict[str, Any]]) -> Told:
    return _anthropic(next(e for e in reversed(events) if e["type"] == "message_delta"))


_USAGE = {"stream_options": {"include_usage": True}}
ROUTES = (
    Route(
        "chat", "/v1/chat/completions", "chat",
        _chat, _openai, _last_openai, {"max_tokens": -1}, _USAGE,
    ),
    Route(
        "beta", "/beta/chat/completions", "chat",
        _prefix, _openai, _last_openai, {"temperature": 9}, _USAGE,
    ),
    Route(
        "completions", "/v1/completions", "completions",
        lambda text, most: {"prompt": text, "max_tokens": most},
        _openai, _last_openai, {"prompt": 7}, _USAGE,
    ),
    Route(
        "fim", "/beta/completions", "completions",
        lambda text, most: {"prompt": text, "suffix": "the end", "max_tokens": most},
        _openai, _last_openai, {"top_p": 2}, _USAGE,
    ),
    Route(
        "responses", "/v1/responses", "responses",
        lambda text, most: {"input": text, "max_output_tokens": most},
        _responses, _last_responses, {"max_output_tokens": 0}, {},
    ),
    Route(
        "anthropic", "/anthropic/v1/messages", "messages",
        _chat, _anthropic, _last_anthropic, {"messages": []}, {},
    ),
    Route(
        "embeddings", "/v1/embeddings", "embeddings",
        lambda text, most: {"input": ["short", text * (1 + most // 8)]},
        lambda body: Told(body["usage"]["prompt_tokens"]), None, {"dimensions": 3}, {},
    ),
)  # fmt: skip


def events_of(text: str) -> list[dict[str, Any]]:
    """The JSON of a stream's events."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
