"""Run one HTTP request's generation: submit, watch, render, and never leave the engine working.

One HTTP request is one `Request` per prompt.  Their events arrive through one queue, so that a
consumer can wait with a heartbeat without cancelling an engine's iterator.  Leaving the
`async with` block aborts whatever has not finished; what has finished is never aborted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType

from tribody.core.clock import Clock
from tribody.core.errors import EngineFailed, Overloaded
from tribody.core.request import Event, Request, Usage
from tribody.server import limits
from tribody.server.errors import GenerationFailed
from tribody.server.metrics import Metrics
from tribody.server.models_table import ServedModel
from tribody.server.rendering import ChoiceRenderer, Piece
from tribody.server.types import CompletionTokensDetails, PromptTokensDetails, UsageBody

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0  # of silence, after which a stream gets a comment to keep proxies calm


@dataclass
class Prompt:
    """One prompt of the HTTP request; its choices are numbered from `first_choice`."""

    request: Request
    renderers: list[ChoiceRenderer]
    usage: Usage | None = None  # the engine's own, with the last event
    cached_tokens: int = 0  # until then: what the events have told
    completion_tokens: int = 0


@dataclass
class _Ended:
    """A pump's last word: its task is done (with or without an exception)."""

    task: asyncio.Task[None]


class Generation:
    """The running generation of one HTTP request."""

    def __init__(
        self,
        model: ServedModel,
        prompts: list[Prompt],
        metrics: Metrics,
        clock: Clock,
        started: float,
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.metrics = metrics
        self.clock = clock
        self.started = started  # when the HTTP request arrived, by `clock`
        self._queue: asyncio.Queue[tuple[Prompt, Event] | _Ended] = asyncio.Queue()
        self._pumps: list[asyncio.Task[None]] = []
        self._last_token: dict[tuple[str, int], float] = {}
        self._open_choices = sum(prompt.request.n for prompt in prompts)

    async def __aenter__(self) -> Generation:
        for prompt in self.prompts:
            num_tokens = len(prompt.request.prompt_token_ids)
            self.metrics.prompt_tokens(self.model.model_id, num_tokens)
            task = asyncio.create_task(self._pump(prompt))
            task.add_done_callback(lambda done: self._queue.put_nowait(_Ended(done)))
            self._pumps.append(task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._pumps:
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if self._open_choices:
            reason = (
                "abort" if kind is None or issubclass(kind, asyncio.CancelledError) else "error"
            )
            self.metrics.finished(self.model.model_id, reason, self._open_choices)
        self.metrics.request_seconds(self.model.model_id, self.clock.now() - self.started)

    async def _pump(self, prompt: Prompt) -> None:
        """Move one request's events into the queue; closing them early aborts the request."""
        async with aclosing(self.model.engine.submit(prompt.request)) as events:
            async for event in events:
                prompt.usage = event.usage or prompt.usage
                prompt.cached_tokens = event.cached_tokens or prompt.cached_tokens
                prompt.completion_tokens += len(event.token_ids)
                self._queue.put_nowait((prompt, event))

    async def pieces(
        self, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> AsyncGenerator[Piece | None, None]:
        """Pieces as they become certain; None after every `heartbeat_seconds` of silence.

        Raises: whatever `submit` raises; GenerationFailed when the engine reports an error;
        Overloaded when nothing has begun to run within limits.START_SECONDS.
        """
        running = len(self._pumps)
        begun = False
        while running:
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    item = await self._queue.get()
            except TimeoutError:
                if not begun and self.clock.now() - self.started > limits.START_SECONDS:
                    raise Overloaded(
                        f"This request has waited for {limits.START_SECONDS:g} s; please send it "
                        "again later."
                    ) from None
                yield None
                continue
            begun = True
            if isinstance(item, _Ended):
                item.task.result()
                running -= 1
                continue
            for piece in self._render(*item):
                yield piece
        if self._open_choices:
            raise EngineFailed(f"the engine ended a request with {self._open_choices} open choices")

    def _render(self, prompt: Prompt, event: Event) -> list[Piece]:
        if event.finish_reason == "error" or event.finish_reason == "abort":
            logger.error(
                "event=generation_failed request_id=%s reason=%s error=%s",
                event.request_id,
                event.finish_reason,
                event.error,
            )
            if event.finish_reason == "abort":
                raise EngineFailed("the engine aborted a request that nobody aborted")
            raise GenerationFailed(event.error or "unknown")
        self._measure(event)
        if event.finish_reason is not None:
            self._open_choices -= 1
            self.metrics.finished(self.model.model_id, event.finish_reason, 1)
        return prompt.renderers[event.choice].push(event)

    def _measure(self, event: Event) -> None:
        if not event.token_ids:
            return
        now = self.clock.now()
        model_id = self.model.model_id
        if not self._last_token:
            self.metrics.first_token(model_id, now - self.started)
        key = (event.request_id, event.choice)
        last = self._last_token.get(key)
        if last is not None:
            self.metrics.between_tokens(model_id, now - last, len(event.token_ids))
        self._last_token[key] = now

    def usage(self) -> UsageBody:
        """Token counts over all prompts, from the scheduler's books.

        Valid after the last piece; before it (a stream that is cut short) what has been told.
        """
        counts = [
            prompt.usage
            or Usage(
                prompt_tokens=len(prompt.request.prompt_token_ids),
                cached_tokens=prompt.cached_tokens,
                completion_tokens=prompt.completion_tokens,
            )
            for prompt in self.prompts
        ]
        prompt_tokens = sum(usage.prompt_tokens for usage in counts)
        cached = sum(usage.cached_tokens for usage in counts)
        completion = sum(usage.completion_tokens for usage in counts)
        renderers = [renderer for prompt in self.prompts for renderer in prompt.renderers]
        return UsageBody(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion,
            total_tokens=prompt_tokens + completion,
            prompt_cache_hit_tokens=cached,
            prompt_cache_miss_tokens=prompt_tokens - cached,
            prompt_tokens_details=PromptTokensDetails(cached),
            completion_tokens_details=CompletionTokensDetails(
                sum(renderer.reasoning_tokens for renderer in renderers)
            ),
        )
