"""The ASGI application of the public API: its routes, and who may come in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Scope

from tribody.core.clock import Clock
from tribody.core.principal import Principal
from tribody.server.api_route import application
from tribody.server.auth import ANTHROPIC, OPEN_PATHS, authenticate
from tribody.server.boundary import Spoken
from tribody.server.errors import Forbidden, Unauthorized
from tribody.server.offline import Offline
from tribody.server.openapi import openapi
from tribody.server.routes import (
    GENERATING,
    LABELS,
    OPENAPI_PATH,
    ROUTES,
    check_scope,
    scope_of,
)
from tribody.server.service import Service

QUIET = OPEN_PATHS | {"/metrics"}  # asked every few seconds by machines: logged at debug only


def create_app(service: Service, offline: Offline | None = None) -> Starlette:
    """The application around one service; nothing is started or loaded here.

    `offline`: its files and batches, if it keeps any.
    """
    app = application(ROUTES, [Route(OPENAPI_PATH, openapi)], PublicSurface(service))
    app.state.service = service
    app.state.offline = offline
    return app


@dataclass(frozen=True)
class PublicSurface:
    """Keys, the caller's concurrency and the drain (see boundary.Surface)."""

    service: Service

    @property
    def clock(self) -> Clock:
        return self.service.clock

    def spoken(self, path: str) -> Spoken:
        return Spoken(self.service.api.errors, path.startswith(ANTHROPIC))

    @contextmanager
    def enter(self, scope: Scope, spoken: Spoken) -> Iterator[None]:
        path, caller = scope["path"], None
        if path not in OPEN_PATHS:
            caller = self._caller(scope, spoken)
        generates = caller is not None and path in GENERATING
        if caller is not None and generates:
            call = self.service.new_call(scope["state"]["request_id"], caller, scope_of(path))
            scope["state"]["call"], spoken.headers = call, call.headers
        with self.service.admitted(caller) if caller and generates else nullcontext():
            yield

    def _caller(self, scope: Scope, spoken: Spoken) -> Principal:
        """Raises: Unauthorized, Forbidden, which are counted."""
        try:
            caller = authenticate(
                scope["headers"], self.service.keys, self.service.api, scope["path"]
            )
            spoken.style = caller.api.errors
            scope["state"]["principal"] = caller
            check_scope(caller, scope["path"])
        except (Unauthorized, Forbidden) as refused:
            self.service.metrics.auth_failure(refused.reason)
            raise
        return caller

    def answered(self, scope: Scope, status: int) -> tuple[str, str, int]:
        route = LABELS.of(scope["path"])
        self.service.metrics.http_request(route, scope["method"], status)
        principal = scope.get("state", {}).get("principal")
        level = logging.DEBUG if route in QUIET else logging.INFO
        return route, principal.key_id if principal else "none", level
