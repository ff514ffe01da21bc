"""One entry in a table of routes, and what is made from such a table: the application, the labels
of metrics and logs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from tribody.server.boundary import RequestBoundary, Surface, no_route

Endpoint = Callable[[HttpRequest], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class ApiRoute:
    """The first path is the one that is shown.  `scope`: what a key must be for that is not for
    everything.  `generates`: a drain waits for it, and it counts against the caller's concurrency.

    `form`: the schema of a multipart body, in place of `request`; `query`: the type of what may
    stand behind the path's `?`; `verb`: the method, where it does not follow from these;
    `needs_idempotency_key`: whether the header Idempotency-Key must be there.
    """

    scope: str
    paths: tuple[str, ...]
    endpoint: Endpoint
    summary: str
    request: type[msgspec.Struct] | None = None
    form: dict[str, Any] | None = None
    query: type[msgspec.Struct] | None = None
    verb: str | None = None
    response: type[msgspec.Struct] | None = None  # None: `media`
    media: str = "text/plain"
    events: tuple[type[msgspec.Struct], ...] = ()  # of a stream, where `stream` is true
    generates: bool = False
    needs_idempotency_key: bool = False

    @property
    def method(self) -> str:
        return self.verb or ("GET" if self.request is None and self.form is None else "POST")


def application(table: Sequence[ApiRoute], others: Sequence[Route], surface: Surface) -> Starlette:
    """The routes of a table, and others, behind the boundary."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for route in table:
        for path in route.paths:
            by_path.setdefault(path, {})[route.method] = route.endpoint
    routes = [
        Route(path, _by_method(endpoints), methods=list(endpoints))
        for path, endpoints in by_path.items()
    ]
    app = Starlette(
        routes=[*routes, *others],
        middleware=[Middleware(RequestBoundary, surface=surface)],
        exception_handlers={HTTPException: no_route},
    )
    app.router.redirect_slashes = False
    return app


def _by_method(endpoints: dict[str, Endpoint]) -> Endpoint:
    async def answer(http: HttpRequest) -> Response:
        return await endpoints["GET" if http.method == "HEAD" else http.method](http)

    return answer


# --- labels ----------------------------------------------------------------------------------

_PARAMETER = re.compile(r"\{\w+(:path)?\}")


def label_of(path: str) -> str:
    """The label of a path in a table."""
    return _PARAMETER.sub("{id}", path)


class Labels:
    """A label from a closed set, whatever path the client asked for."""

    def __init__(self, table: Sequence[ApiRoute], others: Sequence[str]) -> None:
        paths = [path for route in table for path in route.paths]
        self._plain = frozenset(p for p in paths if "{" not in p) | frozenset(others)
        self._patterns = {
            label_of(path): re.compile(
                "".join(
                    ".*" if part == ":path" else "[^/]+" if part is None else re.escape(part)
                    for part in _PARAMETER.split(path)
                )
            )
            for path in paths
            if "{" in path
        }

    def of(self, path: str) -> str:
        if path in self._plain:
            return path
        found = (shown for shown, pattern in self._patterns.items() if pattern.fullmatch(path))
        return next(found, "other")
