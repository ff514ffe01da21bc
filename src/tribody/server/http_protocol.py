"""uvicorn's httptools protocol with the limits that it lacks.

httptools buffers headers without bound and waits for slow clients for ever.  Here the request line
and headers have a size and a deadline, and a body must keep growing; a malformed request gets an
OpenAI-shaped 400 like every other error.
"""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tribody.server import limits
from tribody.server.errors import http_error

CUT_SECONDS = 2  # after a drain's time is up: for the last error events to leave


def uvicorn_config(app: ASGIApp) -> Config:
    """How each of our listeners speaks HTTP."""
    return Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # a header does not say who calls
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CUT_SECONDS,
    )


class BoundedProtocol(HttpToolsProtocol):
    """One connection.  uvicorn makes it (`http=BoundedProtocol`) with the arguments below."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._reading_headers = True
        self._reading_body = False
        self._header_bytes = 0
        self._body_bytes = 0
        self._body_bytes_at_check = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []  # begun and not yet answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(limits.HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells only the last of several pipelined requests; the others would wait on."""
        self._disarm()
        self.pipeline.clear()
        for cycle in self._cycles:
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reading_headers:
            self._header_bytes += len(data)
            if self._deadline is None:
                self._arm(limits.HEADER_SECONDS)
        super().data_received(data)
        # The parser has taken in all of `data`: what counted as header may have held a body too.
        if self._reading_headers and self._header_bytes > limits.MAX_HEADER_BYTES:
            self._refuse(431, f"The headers are larger than {limits.MAX_HEADER_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return  # what comes behind a refused request is not served
        if sum(len(n) + len(v) for n, v in self.headers) + len(self.url) > limits.MAX_HEADER_BYTES:
            self._refuse(431, f"The headers are larger than {limits.MAX_HEADER_BYTES} bytes.")
            return
        self._reading_headers, self._reading_body = False, True
        self._body_bytes = self._body_bytes_at_check = 0
        self._arm(limits.BODY_SECONDS)
        super().on_headers_complete()
        if self.cycle is not None:
            self._cycles = [c for c in self._cycles if not c.response_complete] + [self.cycle]

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading_headers, self._reading_body = True, False
        self._header_bytes = 0
        self._disarm()
        if self.cycle is not None and not self.transport.is_closing():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if not self._reading_body:
            if self._header_bytes:
                self._refuse(408, f"No complete headers within {limits.HEADER_SECONDS:g} s.")
            else:
                self.transport.close()
            return
        if self._body_bytes - self._body_bytes_at_check >= limits.BODY_WINDOW_BYTES:
            self._body_bytes_at_check = self._body_bytes
            self._arm(limits.BODY_SECONDS)
        elif self.cycle is not None and self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(408, "The request body arrives too slowly.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer outside the application and close; a running answer is simply cut."""
        if self.transport.is_closing():
            return
        running = self.cycle is not None and not self.cycle.response_complete
        if not (running and self.cycle.response_started):
            answer = http_error(status, message)
            body = answer.body()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"x-request-id: {uuid.uuid4().hex}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
