"""The one middleware that every request of an application passes, whoever the application is for.

It is pure ASGI (BaseHTTPMiddleware would hide disconnects).  It names the request, lets the
application's surface say who may come in, turns exceptions into answers, counts and logs.  It is
the outermost layer: nothing raised below it reaches uvicorn.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tribody.core.api_settings import Style
from tribody.core.clock import Clock
from tribody.core.errors import TribodyError
from tribody.server.errors import HttpError, NoRoute, error_for
from tribody.server.stream import ClientGone

logger = logging.getLogger(__name__)

STATUS_CLIENT_GONE = 499  # for logs and metrics only: nobody is there to receive it


@dataclass
class Spoken:
    """How the caller wants its errors; `headers` join those of the answer, whatever it is."""

    style: Style
    anthropic: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Surface(Protocol):
    """What differs between applications."""

    @property
    def clock(self) -> Clock: ...

    def spoken(self, path: str) -> Spoken:
        """How errors are worded until more is known of the caller."""

    def enter(self, scope: Scope, spoken: Spoken) -> AbstractContextManager[None]:
        """Hold the request's place while it is answered; leave in `scope` who calls.

        Raises: TribodyError to refuse it, here or at the block's start.
        """

    def answered(self, scope: Scope, status: int) -> tuple[str, str, int]:
        """Count it.  Returns what is logged: route and caller, and at which level."""


@dataclass
class _Sent:
    """What has been sent of one answer."""

    status: int = 0  # 0: nothing yet


class RequestBoundary:
    """Pure ASGI middleware; see the module's docstring."""

    def __init__(self, app: ASGIApp, surface: Surface) -> None:
        self.app = app
        self.surface = surface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request_id = uuid.uuid4().hex
        started = self.surface.clock.now()
        scope.setdefault("state", {})["request_id"] = request_id
        sent = _Sent()
        spoken = self.surface.spoken(scope["path"])

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                headers += [(k.encode(), v.encode()) for k, v in spoken.headers.items()]
                message = {**message, "headers": headers}
            await send(message)

        try:
            with self.surface.enter(scope, spoken):
                await self.app(scope, receive, send_named)
        except (ClientGone, ClientDisconnect):  # while it was answered; while it was read
            sent.status = STATUS_CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the outermost layer
            await self._answer(error, spoken, request_id, sent, send_named)
        finally:
            self._record(scope, request_id, sent.status, self.surface.clock.now() - started)

    async def _answer(
        self, error: Exception, caller: Spoken, request_id: str, sent: _Sent, send: Send
    ) -> None:
        """Send the error's answer, or cut the connection if another answer has begun."""
        answer = error_for(error, caller.style)
        if answer.status >= 500:
            _log_failure(error, request_id)
        if sent.status:
            raise ConnectionAbortedError("an answer had begun") from None
        body = answer.anthropic_body(request_id) if caller.anthropic else answer.body()
        await send_error(answer, body, send)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route, caller, level = self.surface.answered(scope, status)
        logger.log(
            level,
            "event=http_request request_id=%s route=%s method=%s status=%d key=%s duration_ms=%.1f",
            request_id,
            route,
            scope["method"] if len(scope["method"]) < 16 else "other",
            status,
            caller,
            seconds * 1e3,
        )


async def no_route(http: HttpRequest, error: Exception) -> Response:
    """Starlette's own refusals (no such route, wrong method) become errors like all others."""
    assert isinstance(error, HTTPException)
    messages = {404: "There is no such route.", 405: "This route does not allow that method."}
    message = messages.get(error.status_code, "The request cannot be served.")
    raise NoRoute(message, error.status_code, tuple((error.headers or {}).items()))


async def send_error(answer: HttpError, body: bytes, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in answer.headers),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log_failure(error: Exception, request_id: str) -> None:
    """Where it happened, not what it said: messages may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    shown = str(error) if isinstance(error, TribodyError) else ""
    logger.error(
        "event=request_failed request_id=%s error=%s where=%r detail=%r",
        request_id,
        type(error).__name__,
        where,
        shown,
    )
