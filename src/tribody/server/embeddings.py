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
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import BadRequest, EngineFailed
from tribody.core.metering import Counts, Outcome
from tribody.core.principal import Principal
from tribody.core.request import Request, SamplingParams
from tribody.server import limits, validation
from tribody.server.call import Call
from tribody.server.endpoint import identity_of, plain
from tribody.server.errors import GenerationFailed
from tribody.server.generation import ABORT_SECONDS, HEARTBEAT_SECONDS, check_wait, outcome_of
from tribody.server.metering import Bill, Demand
from tribody.server.models_table import Events, ServedModel
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
    call: Call = http.state.call
    body = await read_body(http)
    work = await service.off_loop(prepare, service, body, call.caller)
    call = replace(call, identity=identity_of(http, body))
    return await plain(
        http, call, lambda: answer(service, work, call), ignored_header(work.ignored)
    )


def prepare(service: Service, body: bytes, caller: Principal) -> EmbeddingWork:
    """Decode, check and tokenize; runs in a text thread.  Raises: BadRequest."""
    fields, ignored = decode_any(body, EmbeddingRequest)
    validation.check_users(fields)
    model = service.find_model(fields.model, caller).model
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
            tenant=caller.tenant_id,
            weight=caller.weight,
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


async def answer(service: Service, work: EmbeddingWork, call: Call) -> EmbeddingList:
    """Run `work` to its end.  Raises: what the engine raises, for the first input that fails;
    what `Service.admit` raises; NeverStarted."""
    running = _Running(service, work, call)
    vectors = await running.vectors()
    num_tokens = running.demand.prompt_tokens
    return EmbeddingList(
        data=[
            Embedding(index=i, embedding=_encoded(found, work.encoding))
            for i, found in enumerate(vectors)
        ],
        model=work.model.model_id,
        usage=EmbeddingUsage(num_tokens, num_tokens),
    )


class _Running:
    """The engine's requests of one answer, from admission until what they used is settled."""

    def __init__(self, service: Service, work: EmbeddingWork, call: Call) -> None:
        self._service = service
        self._work = work
        self._call = call
        self._places = asyncio.Semaphore(AT_ONCE)
        self._streams: list[Events] = []
        self._cut = False
        self.demand = self._demand()

    async def vectors(self) -> list[bytes]:
        bill = await self._service.admit(self.demand)
        self._service.metrics.prompt_tokens(self.demand.model_id, self.demand.prompt_tokens)
        tasks = [asyncio.create_task(self._vector(request)) for request in self._work.requests]
        outcome: Outcome = "finished"
        try:
            vectors = await self._all(tasks)
        except BaseException as failure:
            outcome = outcome_of(failure, self._call, draining=self._service.draining)
            raise
        finally:
            await self._service.to_the_end(self._end(tasks, bill, outcome))
        return vectors

    async def _all(self, tasks: list[asyncio.Task[bytes]]) -> list[bytes]:
        """Raises: what the first failure raises; NeverStarted while no input has been computed."""
        begun, waiting = False, set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
            begun = begun or bool(done)
            if not begun:
                check_wait(self._service, self._call)
        return [task.result() for task in tasks]

    def _demand(self) -> Demand:
        lengths = [len(request.prompt_token_ids) for request in self._work.requests]
        return Demand(
            call=self._call,
            model_id=self._work.model.model_id,
            prompt_tokens=sum(lengths),
            longest_prompt=max(lengths),
            completion_tokens=0,
        )

    async def _end(self, tasks: list[asyncio.Task[bytes]], bill: Bill, outcome: Outcome) -> None:
        """Abort what runs, wait until the engine has said how far it came, settle."""
        self._cut = True
        for stream in self._streams:
            stream.abort()
        await asyncio.wait(tasks, timeout=ABORT_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        model_id, metrics = self._work.model.model_id, self._service.metrics
        reason = {"finished": "stop", "disconnect": "abort"}.get(outcome, "error")
        metrics.finished(model_id, reason, len(tasks))
        metrics.request_seconds(model_id, self._service.clock.now() - self._call.started)
        usages = [usage for stream in self._streams if (usage := stream.known()).prefilled]
        counts = Counts(
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            cached_tokens=sum(usage.cached_tokens for usage in usages),
        )
        await bill.settle(counts, outcome)

    async def _vector(self, request: Request) -> bytes:
        async with self._places:
            if self._cut:
                raise asyncio.CancelledError
            stream = self._work.model.engine.submit(request)
            self._streams.append(stream)
            async with aclosing(stream):
                return await _embedding(stream)


async def _embedding(stream: Events) -> bytes:
    async for event in stream:
        if event.embedding is not None:
            return event.embedding
        if event.finish_reason == "abort":
            raise GenerationFailed("aborted")  # by us: nobody waits for it
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
