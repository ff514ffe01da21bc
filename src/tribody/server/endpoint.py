"""From a POST to its answer, whole or streamed: what all endpoints that generate have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
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
from tribody.server.replays import Identity
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
    identity = identity_of(http, body)
    call = replace(call, streamed=bool(work.fields.stream), identity=identity)
    headers = ignored_header(work.ignored)

    def mapped(error: TribodyError) -> HttpError:
        return error_for(error, caller.api.errors)

    if work.fields.stream:
        frames = stream(service, work, call)
        if identity is not None:
            frames = _once(service, identity, frames)
        return EventStream(frames, headers, lambda error: error_frame(mapped(error)))
    return await plain(http, call, lambda: answer(service, work, call), headers, error_body)


def identity_of(http: HttpRequest, body: bytes) -> Identity | None:
    """By what a request is known that has an Idempotency-Key.  Raises: BadRequest."""
    key = http.headers.get("idempotency-key")
    if key is None:
        return None
    call: Call = http.state.call
    return Identity.of(call.caller.tenant_id, key, http.url.path, body)


async def _once(
    service: Service, identity: Identity, frames: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    with service.replays.streaming(identity):
        async with aclosing(frames):
            async for chunk in frames:
                yield chunk


async def plain(
    http: HttpRequest,
    call: Call,
    answer: Callable[[], Coroutine[None, None, msgspec.Struct]],
    headers: dict[str, str],
    error_body: Callable[[HttpError], bytes] = HttpError.body,
) -> Response:
    """An answer as one JSON body, which a client that goes away ends early."""
    service: Service = http.app.state.service

    async def made() -> bytes:
        return msgspec.json.encode(await answer())

    async def encoded() -> bytes:
        if call.identity is None:
            return await made()
        body, is_replayed = await service.replays.once(call.identity, made)
        if is_replayed:
            call.headers["idempotent-replayed"] = "true"
        return body

    if not call.caller.api.plain_keep_alive:
        whole = await while_connected(http.receive, encoded())
        return Response(whole, headers=headers, media_type="application/json")

    def late(error: TribodyError) -> bytes:
        return error_body(error_for(error, call.caller.api.errors))

    return PatientResponse(encoded(), headers, HEARTBEAT_SECONDS, late)
