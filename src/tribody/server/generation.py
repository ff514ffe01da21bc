"""Run one HTTP request's generation: submit, watch, render, and never leave the engine working.

One HTTP request is one `Request` per prompt.  Their events arrive through one queue, so that a
consumer can wait with a heartbeat without cancelling an engine's iterator.  Leaving the
`async with` block aborts whatever has not finished; what has finished is never aborted.

What was used is settled before `pieces` ends, so that nobody is told of an end that is not in the
books; or else on leaving the block, when the engine has said how far it had come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType

from tribody.core.errors import BadRequest, EngineFailed, Overloaded, StorageFailed
from tribody.core.metering import Counts, Outcome
from tribody.core.request import Event, Request, Usage
from tribody.server import limits
from tribody.server.call import Call
from tribody.server.errors import GenerationFailed, NeverStarted
from tribody.server.metering import Bill, Demand
from tribody.server.models_table import Events, ServedModel
from tribody.server.rendering import ChoiceRenderer, Piece
from tribody.server.service import Service
from tribody.server.types import CompletionTokensDetails, PromptTokensDetails, UsageBody

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0  # of silence, after which a stream gets a comment to keep proxies calm
ABORT_SECONDS = 30.0
# Within these the engine must have said how far an aborted request had come (it does so with its
# next step), or what was heard from it counts.


@dataclass
class Prompt:
    """One prompt of the HTTP request; its choices are numbered from `first_choice`."""

    request: Request
    renderers: list[ChoiceRenderer]
    stream: Events | None = None  # once it is submitted

    def usage(self) -> Usage:
        """The engine's own count; before the end what is known of it."""
        if self.stream is not None:
            return self.stream.known()
        num_tokens = len(self.request.prompt_token_ids)
        return Usage(
            prompt_tokens=num_tokens, cached_tokens=0, completion_tokens=0, prefilled=False
        )


@dataclass
class _Ended:
    """A pump's last word: its task is done (with or without an exception)."""

    task: asyncio.Task[None]


class Generation:
    """The running generation of one HTTP request."""

    def __init__(
        self, service: Service, model: ServedModel, prompts: list[Prompt], call: Call
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.call = call
        self._service = service
        self._metrics = service.metrics
        self._bill: Bill | None = None  # from admission until it is settled
        self._failure: BaseException | None = None  # of `pieces`
        self._queue: asyncio.Queue[tuple[Prompt, Event] | _Ended] = asyncio.Queue()
        self._pumps: list[asyncio.Task[None]] = []
        self._last_token: dict[tuple[str, int], float] = {}
        self._open_choices = sum(prompt.request.n for prompt in prompts)

    async def __aenter__(self) -> Generation:
        """Raises: what `Meter.admit` raises."""
        self._bill = await self._service.admit(self._demand())
        for prompt in self.prompts:
            num_tokens = len(prompt.request.prompt_token_ids)
            self._metrics.prompt_tokens(self.model.model_id, num_tokens)
            task = asyncio.create_task(self._pump(prompt))
            task.add_done_callback(lambda done: self._queue.put_nowait(_Ended(done)))
            self._pumps.append(task)
        return self

    def _demand(self) -> Demand:
        requests = [prompt.request for prompt in self.prompts]
        lengths = [len(request.prompt_token_ids) for request in requests]
        return Demand(
            call=self.call,
            model_id=self.model.model_id,
            prompt_tokens=sum(lengths),
            longest_prompt=max(lengths),
            completion_tokens=sum(request.n * request.sampling.max_tokens for request in requests),
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failure = self._failure or error
        outcome = outcome_of(failure, self.call, draining=self._service.draining)
        await self._service.to_the_end(self._end(outcome))

    async def _end(self, outcome: Outcome) -> None:
        """Abort what runs, wait until the engine has said how far it came, settle."""
        for prompt in self.prompts:
            if prompt.stream is not None:
                prompt.stream.abort()
        if self._pumps:
            await asyncio.wait(self._pumps, timeout=ABORT_SECONDS)
        for task in self._pumps:
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if self._open_choices:
            reason = "abort" if outcome == "disconnect" else "error"
            self._metrics.finished(self.model.model_id, reason, self._open_choices)
        seconds = self._service.clock.now() - self.call.started
        self._metrics.request_seconds(self.model.model_id, seconds)
        self._count_rest()
        try:
            await self._settle(outcome)
        except StorageFailed as failed:
            logger.error("event=not_settled request_id=%s error=%r", self.call.id, str(failed))

    def _count_rest(self) -> None:
        """Render what nobody has read, since it is counted by what it is part of."""
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if not isinstance(item, _Ended) and item[1].token_ids:
                item[0].renderers[item[1].choice].push(item[1])

    async def _settle(self, outcome: Outcome) -> None:
        bill, self._bill = self._bill, None
        if bill is not None:
            await bill.settle(self._counts(), outcome)

    def _counts(self) -> Counts:
        """What has been used: a prompt counts once it is computed."""
        usages = [prompt.usage() for prompt in self.prompts]
        return Counts(
            prompt_tokens=sum(usage.prompt_tokens for usage in usages if usage.prefilled),
            cached_tokens=sum(usage.cached_tokens for usage in usages if usage.prefilled),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            reasoning_tokens=self._reasoning_tokens(),
        )

    def _reasoning_tokens(self) -> int:
        renderers = [renderer for prompt in self.prompts for renderer in prompt.renderers]
        return sum(renderer.reasoning_tokens for renderer in renderers)

    async def _pump(self, prompt: Prompt) -> None:
        """Move one request's events into the queue."""
        prompt.stream = self.model.engine.submit(prompt.request)
        try:
            async for event in prompt.stream:
                self._queue.put_nowait((prompt, event))
        finally:
            await prompt.stream.aclose()

    async def pieces(
        self, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> AsyncGenerator[Piece | None, None]:
        """Pieces as they become certain; None after every `heartbeat_seconds` of silence.

        Raises: whatever `submit` raises; GenerationFailed when the engine reports an error;
        NeverStarted when nothing has begun to run within limits.START_SECONDS; StorageFailed when
        what was used cannot be recorded.
        """
        try:
            async for piece in self._pieces(heartbeat_seconds):
                yield piece
            await self._service.to_the_end(self._settle("finished"))
        except Exception as failure:
            self._failure = failure
            raise

    async def _pieces(self, heartbeat_seconds: float) -> AsyncGenerator[Piece | None, None]:
        running = len(self._pumps)
        begun = False
        while running:
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    item = await self._queue.get()
            except TimeoutError:
                if not begun:
                    check_wait(self._service, self.call)
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
            self._metrics.finished(self.model.model_id, event.finish_reason, 1)
        return prompt.renderers[event.choice].push(event)

    def _measure(self, event: Event) -> None:
        if not event.token_ids:
            return
        now = self._service.clock.now()
        model_id = self.model.model_id
        if not self._last_token:
            self._metrics.first_token(model_id, now - self.call.started)
        key = (event.request_id, event.choice)
        last = self._last_token.get(key)
        if last is not None:
            self._metrics.between_tokens(model_id, now - last, len(event.token_ids))
        self._last_token[key] = now

    def usage(self) -> UsageBody:
        """Token counts over all prompts, from the scheduler's books.

        Valid after the last piece; before it (a stream that is cut short) what has been told.
        """
        usages = [prompt.usage() for prompt in self.prompts]
        prompt_tokens = sum(usage.prompt_tokens for usage in usages)
        cached = sum(usage.cached_tokens for usage in usages)
        completion = sum(usage.completion_tokens for usage in usages)
        return UsageBody(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion,
            total_tokens=prompt_tokens + completion,
            prompt_cache_hit_tokens=cached,
            prompt_cache_miss_tokens=prompt_tokens - cached,
            prompt_tokens_details=PromptTokensDetails(cached),
            completion_tokens_details=CompletionTokensDetails(self._reasoning_tokens()),
        )


def check_wait(service: Service, call: Call) -> None:
    """Raises: NeverStarted for a call that has waited long enough to begin to run."""
    if service.clock.now() - call.started > limits.START_SECONDS:
        raise NeverStarted(
            f"This request has waited for {limits.START_SECONDS:g} s; please send it again later."
        )


def outcome_of(failure: BaseException | None, call: Call, *, draining: bool) -> Outcome:
    """How a call ended that was cut short.  What is asked again, and paid for then, ends as
    "drain"."""
    match failure:
        case NeverStarted():
            return "timeout"
        case Overloaded() | BadRequest():
            return "refused"
        case EngineFailed() if draining:
            return "drain"
        case asyncio.CancelledError() if not call.given_up():
            return "drain"
        case Exception():
            return "error"
        case _:
            return "disconnect"
