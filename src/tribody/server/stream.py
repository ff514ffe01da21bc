"""Server-sent events, as small as they can be, and the watch for clients that go away.

An answer's status leaves only when its first piece (or its first ten seconds) is there, so that a
refused request gets its proper status.  After that, an error is an SSE event without `[DONE]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tribody.core.errors import TribodyError

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def frame(payload: msgspec.Struct) -> bytes:
    """One SSE event with `payload` as JSON (which never holds a raw line break)."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def event_frame(event: str, payload: bytes) -> bytes:
    """One SSE event with a name, as Anthropic's and the Responses API's streams have them."""
    return b"event: " + event.encode() + b"\ndata: " + payload + b"\n\n"


async def while_connected(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """Run `work`; cancel it as soon as the client disconnects.  The body must have been read.

    Raises: ClientGone after `work` has been cancelled and has cleaned up.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """An SSE answer.  `frames` yields ready frames; errors before the first are raised, later ones
    become the frame that `error_frame` makes of them."""

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        error_frame: Callable[[TribodyError], bytes],
    ) -> None:
        self.frames = frames
        self.error_frame = error_frame
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send_frames(send))

    async def _send_frames(self, send: Send) -> None:
        started = False
        try:
            async with aclosing(self.frames):
                async for chunk in self.frames:
                    if not started:
                        started = True
                        await send(self._start())
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TribodyError as error:
            if not started:
                raise
            chunk = self.error_frame(error)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start(self) -> dict[str, object]:
        return {"type": "http.response.start", "status": 200, "headers": self.raw_headers}


class PatientResponse(Response):
    """A JSON answer that begins with blank lines while it is not there yet.

    Proxies that cut silent connections see a sign of life; the price is that the status is 200
    before the outcome is known, so a late error comes as a body with status 200.
    """

    media_type = "application/json"

    def __init__(
        self,
        body: Coroutine[None, None, bytes],
        headers: dict[str, str],
        seconds: float,
        error_body: Callable[[TribodyError], bytes],
    ) -> None:
        """`body` is run; after every `seconds` without it a blank line is sent."""
        self.work = body
        self.seconds = seconds
        self.error_body = error_body
        self.status_code = 200
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send_patiently(send))

    async def _send_patiently(self, send: Send) -> None:
        working = asyncio.ensure_future(self.work)
        started = False
        try:
            while not (await asyncio.wait({working}, timeout=self.seconds))[0]:
                if not started:
                    started = True
                    await send(self._start())
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            try:
                body = working.result()
            except TribodyError as error:
                if not started:
                    raise
                body = self.error_body(error)
            if not started:
                await send(self._start())
            await send({"type": "http.response.body", "body": body, "more_body": False})
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _start(self) -> dict[str, object]:
        return {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
