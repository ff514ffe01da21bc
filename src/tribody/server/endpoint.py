"""From a POST to its answer, whole or streamed: what all endpoints that generate have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.principal import Principal
from tribody.server.service import Service, ignored_header, read_body
from tribody.server.stream import EventStream, while_connected
from tribody.server.types import SamplingFields


class Work(Protocol):
    """One accepted request, ready to run."""

    @property
    def fields(self) -> SamplingFields: ...
    @property
    def ignored(self) -> list[str]: ...


W = TypeVar("W", bound=Work)


async def respond(
    http: HttpRequest,
    prepare: Callable[[Service, bytes, Principal], W],
    answer: Callable[[Service, W, float], Coroutine[None, None, msgspec.Struct]],
    stream: Callable[[Service, W, float], AsyncGenerator[bytes, None]],
) -> Response:
    """`prepare` runs in a text thread; then one of the others, which are told when it all began.

    Raises: BadRequest for everything that is wrong with the request.
    """
    service: Service = http.app.state.service
    started = service.clock.now()
    body = await read_body(http)
    work = await service.off_loop(prepare, service, body, http.state.principal)
    headers = ignored_header(work.ignored)
    if work.fields.stream:
        return EventStream(stream(service, work, started), headers)
    whole = await while_connected(http.receive, answer(service, work, started))
    return Response(msgspec.json.encode(whole), headers=headers, media_type="application/json")
