"""One request as the server's side sees it: its events on the way to the caller, and its counts.

Counts are the scheduler's; they come with the last event.  Where the engine died before that, or
failed for good, what its events had told stands in: tokens that nobody heard of are not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from tribody.core.request import Event, Request, Usage


@dataclass
class Active:
    """One unfinished request and all that is needed to resume it."""

    request: Request
    inbox: asyncio.Queue[Event | Exception] = field(default_factory=asyncio.Queue)
    generated: list[list[int]] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    cached_tokens: int | None = None
    usage: Usage | None = None  # the engine's own, from the last event
    resumes: int = 0
    is_aborting: bool = False

    def take(self, event: Event) -> None:
        self.generated[event.choice] += event.token_ids
        if event.cached_tokens is not None:
            self.cached_tokens = event.cached_tokens
        if event.finish_reason is not None:
            self.finished.add(event.choice)
        self.usage = event.usage or self.usage
        self.inbox.put_nowait(event)

    def end(self, problem: Exception) -> None:
        """No more events come from an engine: a request that is being aborted ends with what is
        known, any other with the problem."""
        if not self.is_aborting:
            self.inbox.put_nowait(problem)
            return
        usage = self.known()
        live = [c for c in range(self.request.n) if c not in self.finished]
        for choice in live:
            self.take(
                Event(
                    request_id=self.request.id,
                    choice=choice,
                    token_ids=[],
                    finish_reason="abort",
                    usage=usage if choice == live[-1] else None,
                )
            )

    def resumed(self) -> Request:
        return msgspec.structs.replace(
            self.request,
            resumed=tuple(tuple(tokens) for tokens in self.generated),
            finished=tuple(sorted(self.finished)),
            resumed_cached_tokens=self.cached_tokens,
        )

    def known(self) -> Usage:
        """See `EventStream.known`."""
        return self.usage or Usage(
            prompt_tokens=len(self.request.prompt_token_ids),
            cached_tokens=self.cached_tokens or 0,
            completion_tokens=sum(map(len, self.generated)),
            prefilled=self.cached_tokens is not None,
        )


class EventStream:
    """The events of one request, in order, as an asynchronous iterator.

    It ends after the event with the usage.  `abort` brings that event soon; `aclose` aborts the
    request without waiting for it, also when nothing was read yet (which is why this is no
    generator: one that never started has no `finally`).
    """

    def __init__(
        self, active: Active, abort: Callable[[Active], None], drop: Callable[[Active], None]
    ) -> None:
        self._active = active
        self._abort = abort
        self._drop = drop
        self._ended = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        item = await self._active.inbox.get()
        if isinstance(item, Exception):
            self._ended = True
            raise item
        self._ended = item.usage is not None
        return item

    def abort(self) -> None:
        """End the request early and iterate on, to its end, to learn what it has used.

        What was under way still comes, then an "abort" for each choice that had not ended, the last
        with the usage.  That takes one step of the engine; if the engine dies first, or is
        down, the last event is the client's own and its usage is `known`.  A request that the
        engine had refused still raises that; one that has ended ends as it did.
        """
        self._abort(self._active)

    def known(self) -> Usage:
        """What the request has used, at any time, whether its events were read or not.

        The engine's own count once the last event has come; until then, and for ever after an
        exception or `aclose`, what its events have told: before the first one nothing was
        prefilled.
        """
        return self._active.known()

    async def aclose(self) -> None:
        """Nobody listens any more."""
        self._ended = True
        self._drop(self._active)
