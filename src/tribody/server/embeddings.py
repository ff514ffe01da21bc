"""POST /v1/embeddings: a text as a vector, for search and comparison.  The shape is OpenAI's.

The vector is the mean of the model's last hidden states (final norm included) over the input's
tokens, of length 1: docs/embeddings.md.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import struct
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import BadRequest, EngineFailed
from tribody.core.principal import Principal
from tribody.core.request import Request, SamplingParams
from tribody.server import limits, validation
from tribody.server.endpoint import plain
from tribody.server.errors import GenerationFailed
from tribody.server.models_table import ServedModel
from tribody.server.service import Service, decode_any, ignored_header, read_body

logger = logging.getLogger(__name__)

AT_ONCE = 64
# Inputs of one request that the engine has at a time: enough for full steps, and other callers find
# room in the queue beside a request of 2,048 inputs.

Format = Literal["float", "base64"]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Format | None = None
    dimensions: int | None = None
    user: str | None = None
    user_id: str | None = None


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """`embedding`: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@dataclass(frozen=True)
class EmbeddingWork:
    """One accepted request: one engine request for each input."""

    ignored: list[str]
    model: ServedModel
    requests: list[Request]
    encoding: Format


async def embeddings(http: HttpRequest) -> Response:
    """The endpoint."""
    service: Service = http.app.state.service
    started = service.clock.now()
    body = await read_body(http)
    work = await service.off_loop(prepare, service, body, http.state.principal)
    return await plain(http, answer(service, work, started), ignored_header(work.ignored))


def prepare(service: Service, body: bytes, caller: Principal) -> EmbeddingWork:
    """Decode, check and tokenize; runs in a text thread.  Raises: BadRequest."""
    fields, ignored = decode_any(body, EmbeddingRequest)
    validation.check_users(fields)
    model = service.models.find(fields.model).model
    size = model.engine.info.hidden_size
    if fields.dimensions not in (None, size):
        raise BadRequest(
            f"dimensions must be {size}, not {fields.dimensions}: the embeddings of "
            f"{model.model_id!r} cannot be shortened; leave dimensions out.",
            param="dimensions",
        )
    inputs = validation.texts_or_ids("input", fields.input)
    limits.check_count("input", len(inputs), limits.MAX_INPUTS, "inputs")
    requests = [
        Request(
            id=str(uuid.uuid4()),
            prompt_token_ids=_token_ids(given, model),
            sampling=SamplingParams(max_tokens=0),
            pooling="mean",
            priority=caller.priority,
        )
        for given in inputs
    ]
    ignored += [name for name in ("user", "user_id") if getattr(fields, name) is not None]
    return EmbeddingWork(ignored, model, requests, fields.encoding_format or "float")


def _token_ids(given: str | list[int], model: ServedModel) -> list[int]:
    info = model.engine.info
    most = info.max_context_tokens
    if isinstance(given, str):
        if not given:
            raise BadRequest("input holds an empty text; leave it out.", param="input")
        validation.refuse_hopeless(given, model.longest_token_bytes, most, "input")
        ids = model.tokenizer.encode(given, add_special_tokens=True)
    else:
        validation.check_token_ids("input", given, info.vocab_size)
        ids = given
    if not ids:
        raise BadRequest("input holds an empty list; leave it out.", param="input")
    if len(ids) > most:
        raise BadRequest(
            f"This model's maximum context length is {most} tokens. However, your input has "
            f"{len(ids)} tokens. Please reduce the length of the input.",
            param="input",
            code="context_length_exceeded",
        )
    return ids


async def answer(service: Service, work: EmbeddingWork, started: float) -> EmbeddingList:
    """Run `work` to its end.  Raises: what the engine raises, for the first input that fails."""
    model, metrics, count = work.model, service.metrics, len(work.requests)
    metrics.prompt_tokens(model.model_id, sum(len(r.prompt_token_ids) for r in work.requests))
    places = asyncio.Semaphore(AT_ONCE)

    async def vector(request: Request) -> bytes:
        async with places:
            return await _embedding(model, request)

    tasks = [asyncio.create_task(vector(request)) for request in work.requests]
    outcome = "abort"
    try:
        vectors = await asyncio.gather(*tasks)
        outcome = "stop"
    except EngineFailed:
        outcome = "error"
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        metrics.finished(model.model_id, outcome, count)
        metrics.request_seconds(model.model_id, service.clock.now() - started)
    num_tokens = sum(len(request.prompt_token_ids) for request in work.requests)
    return EmbeddingList(
        data=[
            Embedding(index=i, embedding=_encoded(found, work.encoding))
            for i, found in enumerate(vectors)
        ],
        model=model.model_id,
        usage=EmbeddingUsage(num_tokens, num_tokens),
    )


async def _embedding(model: ServedModel, request: Request) -> bytes:
    async with aclosing(model.engine.submit(request)) as events:
        async for event in events:
            if event.embedding is not None:
                return event.embedding
            if event.finish_reason is not None:
                logger.error(
                    "event=generation_failed request_id=%s reason=%s error=%s",
                    event.request_id,
                    event.finish_reason,
                    event.error,
                )
                raise GenerationFailed(event.error or "unknown")
    raise EngineFailed("the engine ended a request without its embedding")


def _encoded(vector: bytes, encoding: Format) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))
