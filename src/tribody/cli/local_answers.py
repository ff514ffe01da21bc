"""Answers from a model that this command loads: an event loop in a thread, a queue between."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from types import TracebackType

import msgspec

from tribody.cli.answers import Fields, Message, Text, refuse_ignored
from tribody.cli.local_service import local_service
from tribody.core.config import EngineConfig
from tribody.server import openai_chat
from tribody.server.chat import generation_for
from tribody.server.service import Service


class LocalAnswers:
    """Load the model when made; leave the `with` block to unload it.

    Raises: BadModel, EngineFailed.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._exits = AsyncExitStack()
        self._service: Service = asyncio.run_coroutine_threadsafe(
            self._exits.enter_async_context(local_service(config)), self._loop
        ).result()
        self.model = self._service.models.models[0].model_id

    def __enter__(self) -> LocalAnswers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._exits.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stream(self, messages: list[Message], fields: Fields) -> Iterator[Text]:
        """Raises: BadRequest, EngineFailed."""
        pieces: queue.SimpleQueue[Text | None] = queue.SimpleQueue()
        body = msgspec.json.encode({"model": self.model, "messages": messages, **fields})
        running = asyncio.run_coroutine_threadsafe(self._run(body, pieces), self._loop)
        running.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            running.result()
        finally:
            running.cancel()
            concurrent.futures.wait([running])

    async def _run(self, body: bytes, pieces: queue.SimpleQueue[Text | None]) -> None:
        service = self._service
        call = service.new_call("local", service.local_caller(), "chat")
        work = await service.off_loop(openai_chat.prepare, service, body, call.caller)
        refuse_ignored(work.ignored)
        async with generation_for(service, work, call) as generation:
            async for piece in generation.pieces():
                if piece is not None and piece.text:
                    pieces.put(Text(piece.section, piece.text))
