"""From a POST to its answer, whole or streamed: what all endpoints that generate have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import TribodyError
from tribody.core.principal import Principal
from tribody.server.call import Call
from tribody.server.errors import HttpError, error_for
from tribody.server.generation import HEARTBEAT_SECONDS
from tribody.server.service import Service, ignored_header, read_body
from tribody.server.stream import EventStream, PatientResponse, while_connected
from tribody.server.types import SamplingFields


class Work(Protocol):
    """One accepted request, ready to run."""

    @property
    def fields(self) -> SamplingFields: ...
    @property
    def ignored(self) -> list[str]: ...


W = TypeVar("W", bound=Work)


def _data(error: HttpError) -> bytes:
    return b"data: " + error.body() + b"\n\n"


async def respond(
    http: HttpRequest,
    prepare: Callable[[Service, bytes, Principal], W],
    answer: Callable[[Service, W, Call], Coroutine[None, None, msgspec.Struct]],
    stream: Callable[[Service, W, Call], AsyncGenerator[bytes, None]],
    *,
    error_frame: Callable[[HttpError], bytes] = _data,
    error_body: Callable[[HttpError], bytes] = HttpError.body,
) -> Response:
    """`prepare` runs in a text thread; then one of the others.

    `error_frame`: the event that ends a stream which fails after it has begun; `error_body`: the
    body of a plain answer that fails after blank lines.
    Raises: BadRequest for everything that is wrong with the request.
    """
    service: Service = http.app.state.service
    call: Call = http.state.call
    caller = call.caller
    body = await read_body(http)
    work = await service.off_loop(prepare, service, body, caller)
    call = replace(call, streamed=bool(work.fields.stream))
    headers = ignored_header(work.ignored)

    def mapped(error: TribodyError) -> HttpError:
        return error_for(error, caller.api.errors)

    if work.fields.stream:
        frames = stream(service, work, call)
        return EventStream(frames, headers, lambda error: error_frame(mapped(error)))
    return await plain(http, answer(service, work, call), headers, error_body)


async def plain(
    http: HttpRequest,
    answer: Coroutine[None, None, msgspec.Struct],
    headers: dict[str, str],
    error_body: Callable[[HttpError], bytes] = HttpError.body,
) -> Response:
    """An answer as one JSON body, which a client that goes away ends early."""
    caller: Principal = http.state.principal
    if not caller.api.plain_keep_alive:
        whole = await while_connected(http.receive, answer)
        return Response(msgspec.json.encode(whole), headers=headers, media_type="application/json")

    async def encoded() -> bytes:
        return msgspec.json.encode(await answer)

    def late(error: TribodyError) -> bytes:
        return error_body(error_for(error, caller.api.errors))

    return PatientResponse(encoded(), headers, HEARTBEAT_SECONDS, late)
