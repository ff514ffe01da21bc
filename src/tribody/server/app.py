"""The ASGI application: routes, and the one middleware that every request passes.

The middleware is pure ASGI (BaseHTTPMiddleware would hide disconnects).  It names the request,
asks who calls, turns exceptions into OpenAI-shaped answers, counts and logs.  It is the server's
outermost layer: nothing raised below it reaches uvicorn.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from contextlib import nullcontext
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tribody.core.api_settings import Style
from tribody.core.errors import TribodyError
from tribody.server.auth import ANTHROPIC, OPEN_PATHS, authenticate
from tribody.server.errors import HttpError, NoRoute, error_for
from tribody.server.offline import Offline
from tribody.server.openapi import openapi
from tribody.server.routes import (
    GENERATING,
    OPENAPI_PATH,
    ROUTES,
    Endpoint,
    check_scope,
    label,
    scope_of,
)
from tribody.server.service import Service
from tribody.server.stream import ClientGone

logger = logging.getLogger(__name__)

STATUS_CLIENT_GONE = 499  # for logs and metrics only: nobody is there to receive it

QUIET = OPEN_PATHS | {"/metrics"}  # asked every few seconds by machines: logged at debug only


def create_app(service: Service, offline: Offline | None = None) -> Starlette:
    """The application around one service; nothing is started or loaded here.

    `offline`: its files and batches, if it keeps any.
    """
    by_path: dict[str, dict[str, Endpoint]] = {}
    for route in ROUTES:
        for path in route.paths:
            by_path.setdefault(path, {})[route.method] = route.endpoint
    routes = [
        Route(path, _by_method(endpoints), methods=list(endpoints))
        for path, endpoints in by_path.items()
    ]
    routes.append(Route(OPENAPI_PATH, openapi))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequestBoundary, service=service)],
        exception_handlers={HTTPException: _no_route},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.offline = offline
    return app


def _by_method(endpoints: dict[str, Endpoint]) -> Endpoint:
    async def answer(http: HttpRequest) -> Response:
        return await endpoints["GET" if http.method == "HEAD" else http.method](http)

    return answer


async def _no_route(http: HttpRequest, error: Exception) -> Response:
    """Starlette's own refusals (no such route, wrong method) become errors like all others."""
    assert isinstance(error, HTTPException)
    messages = {404: "There is no such route.", 405: "This route does not allow that method."}
    message = messages.get(error.status_code, "The request cannot be served.")
    raise NoRoute(message, error.status_code, tuple((error.headers or {}).items()))


# --- the boundary ----------------------------------------------------------------------------


@dataclass
class _Sent:
    """What has been sent of one answer."""

    status: int = 0  # 0: nothing yet


@dataclass
class _Spoken:
    """How the caller wants its errors."""

    style: Style
    anthropic: bool


class RequestBoundary:
    """Pure ASGI middleware; see the module's docstring."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request_id = uuid.uuid4().hex
        started = self.service.clock.now()
        scope.setdefault("state", {})["request_id"] = request_id
        sent, told = _Sent(), dict[str, str]()
        spoken = _Spoken(self.service.api.errors, scope["path"].startswith(ANTHROPIC))

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                headers += [(k.encode(), v.encode()) for k, v in told.items()]
                message = {**message, "headers": headers}
            await send(message)

        try:
            path, caller = scope["path"], None
            if path not in OPEN_PATHS:
                caller = authenticate(scope["headers"], self.service.keys, self.service.api, path)
                spoken.style = caller.api.errors
                scope["state"]["principal"] = caller
                check_scope(caller, path)
            generates = caller is not None and path in GENERATING
            if caller is not None and generates:
                call = self.service.new_call(request_id, caller, scope_of(path))
                scope["state"]["call"], told = call, call.headers
            with self.service.admitted(caller) if caller and generates else nullcontext():
                await self.app(scope, receive, send_named)
        except (ClientGone, ClientDisconnect):  # while it was answered; while it was read
            sent.status = STATUS_CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the outermost layer
            await self._answer(error, spoken, request_id, sent, send_named)
        finally:
            self._record(scope, request_id, sent.status, self.service.clock.now() - started)

    async def _answer(
        self, error: Exception, caller: _Spoken, request_id: str, sent: _Sent, send: Send
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
        route = label(scope["path"])
        self.service.metrics.http_request(route, scope["method"], status)
        principal = scope.get("state", {}).get("principal")
        logger.log(
            logging.DEBUG if route in QUIET else logging.INFO,
            "event=http_request request_id=%s route=%s method=%s status=%d key=%s duration_ms=%.1f",
            request_id,
            route,
            scope["method"] if len(scope["method"]) < 16 else "other",
            status,
            principal.key_id if principal else "none",
            seconds * 1e3,
        )


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
