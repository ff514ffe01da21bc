"""Server-sent events, as small as they can be, and the watch for clients that go away.

An answer's status leaves only when its first piece (or its first ten seconds) is there, so that a
refused request gets its proper status.  After that, an error is an SSE event without `[DONE]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tribody.core.errors import TribodyError
from tribody.server.errors import error_for

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def frame(payload: msgspec.Struct) -> bytes:
    """One SSE event with `payload` as JSON (which never holds a raw line break)."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


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
    """An SSE answer.  `frames` yields ready frames; errors before the first are raised."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        self.frames = frames
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
            chunk = b"data: " + error_for(error).body() + b"\n\n"
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start(self) -> dict[str, object]:
        return {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
