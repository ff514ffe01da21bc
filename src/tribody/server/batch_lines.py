"""The lines of a batch: what may stand in them, and what answers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from tribody.core.errors import BadRequest, EngineFailed, Overloaded, StorageFailed, TribodyError
from tribody.core.principal import Principal
from tribody.server import embeddings, limits, openai_chat, openai_completions, responses
from tribody.server.auth import check_routes
from tribody.server.batch_types import (
    AnswerLine,
    BatchError,
    LineError,
    LineResponse,
    RequestLine,
    Streamed,
)
from tribody.server.call import Call
from tribody.server.data_folder import new_id
from tribody.server.errors import GenerationFailed, error_for
from tribody.server.json_size import check_containers
from tribody.server.replays import Identity
from tribody.server.service import Service
from tribody.tenancy.rates import RateLimited

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0  # until a line that found no room, or no engine, is tried again
MOST_ENGINE_FAILURES = 3  # of one line, which may be what they come from

W = TypeVar("W")
Answer = Callable[[Service, bytes, Call], Coroutine[None, None, msgspec.Struct]]


def _endpoint(
    prepare: Callable[[Service, bytes, Principal], W],
    answer: Callable[[Service, W, Call], Coroutine[None, None, msgspec.Struct]],
) -> Answer:
    async def answered(service: Service, body: bytes, call: Call) -> msgspec.Struct:
        work = await service.off_loop(prepare, service, body, call.caller)
        return await answer(service, work, call)

    return answered


ENDPOINTS: dict[str, Answer] = {
    "/v1/chat/completions": _endpoint(openai_chat.prepare, openai_chat.answer),
    "/v1/completions": _endpoint(openai_completions.prepare, openai_completions.answer),
    "/v1/embeddings": _endpoint(embeddings.prepare, embeddings.answer),
    "/v1/responses": _endpoint(responses.prepare, responses.answer),
}
SCOPE_OF = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}  # as in the table of routes, which is above this
# What a line may ask for.  The requests are the same as over HTTP, and so are the answers.


# --- what is asked ---------------------------------------------------------------------------


def input_lines(path: Path) -> Iterator[bytes]:
    """The lines of an input; empty ones are none."""
    with open(path, "rb") as file:
        for line in file:
            if line.strip():
                yield line


def check_lines(path: Path, endpoint: str) -> tuple[int, list[BatchError]]:
    """How many lines there are, and what is wrong with the first ones that cannot be."""
    errors: list[BatchError] = []
    seen: set[str] = set()
    count = 0
    for count, raw in enumerate(input_lines(path), 1):
        problem = _problem(raw, endpoint, seen)
        if problem is not None:
            errors.append(msgspec.structs.replace(problem, line=count))
        if len(errors) == limits.MAX_BATCH_ERRORS:
            break
        if count > limits.MAX_BATCH_LINES:
            message = f"The file has more than {limits.MAX_BATCH_LINES} requests; divide it."
            return count, [BatchError(code="too_many_requests", message=message)]
    if not count:
        errors.append(BatchError(code="empty_file", message="The file holds no request."))
    return count, errors


def _problem(raw: bytes, endpoint: str, seen: set[str]) -> BatchError | None:
    """What is wrong with a line; its custom_id joins those that were seen."""
    try:
        check_containers(raw)
        raw.decode()  # msgspec does not look into fields that it skips
        line = msgspec.json.decode(raw, type=RequestLine)
        streamed = msgspec.json.decode(line.body, type=Streamed)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, BadRequest) as error:
        shown = "it is not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        return BatchError(
            code="invalid_json_line",
            message=f"The line is no request of a batch (custom_id, method, url, body): {shown}",
        )
    if line.url != endpoint:
        message = f"url must be the batch's endpoint, {endpoint}."
        return BatchError(code="invalid_url", message=message, param="url")
    if streamed.stream:
        message = "A batch does not stream; leave stream out."
        return BatchError(code="invalid_request", message=message, param="body.stream")
    if not 1 <= len(line.custom_id) <= limits.MAX_CUSTOM_ID:
        message = f"custom_id must have 1 to {limits.MAX_CUSTOM_ID} characters."
        return BatchError(code="invalid_custom_id", message=message, param="custom_id")
    if line.custom_id in seen:
        message = "custom_id stands in an earlier line too; make it unique."
        return BatchError(code="duplicate_custom_id", message=message, param="custom_id")
    seen.add(line.custom_id)
    return None


# --- what is answered ------------------------------------------------------------------------


@dataclass(frozen=True)
class Asking:
    """Who asks for a line's answer: its caller, None while that may not come in; `name`, of which
    there is one, by which the line is known again; whether the batch was cancelled by its owner."""

    name: str
    caller: Callable[[], Principal | None]
    given_up: Callable[[], bool]


async def answer_line(
    service: Service, line: RequestLine, asking: Asking, places: asyncio.Semaphore
) -> AnswerLine:
    """The answer to a line, an error being one: this raises nothing of tribody's.

    It is tried, in one of the `places`, until its caller may come in and there is room and an
    engine, however long that takes.  A crash may come between its charge and its answer's being
    kept; by its name it is then answered anew and not charged anew.
    """
    failures = 0
    while True:
        caller, request_id = asking.caller(), new_id("")
        if caller is not None:
            call = service.new_call(request_id, caller, SCOPE_OF[line.url], is_batch=True)
            identity = Identity(caller.tenant_id, asking.name, "")
            call = replace(call, identity=identity, given_up=asking.given_up)
            async with places:
                try:
                    status, body = 200, await _answered(service, line, call)
                    break
                except Exception as error:  # noqa: BLE001 - the outermost layer of a line
                    failures += isinstance(error, EngineFailed)
                    if not _may_pass(error, failures):
                        status, body = _failed(error, call)
                        break
        await asyncio.sleep(RETRY_SECONDS)
    response = LineResponse(status_code=status, request_id=request_id, body=msgspec.Raw(body))
    return AnswerLine(id=new_id("batch_req_"), custom_id=line.custom_id, response=response)


async def _answered(service: Service, line: RequestLine, call: Call) -> bytes:
    check_routes(call.caller, call.route)
    return msgspec.json.encode(await ENDPOINTS[line.url](service, bytes(line.body), call))


def _may_pass(error: Exception, failures: int) -> bool:
    """Whether the same line may be answered later."""
    match error:
        case RateLimited():
            return error.refusal.retry_after is not None
        case GenerationFailed():
            return False
        case EngineFailed():
            return failures < MOST_ENGINE_FAILURES
        case _:
            return isinstance(error, Overloaded | StorageFailed)


def _failed(error: Exception, call: Call) -> tuple[int, bytes]:
    answer = error_for(error, call.caller.api.errors)
    if answer.status >= 500:
        shown = str(error) if isinstance(error, TribodyError) else ""
        logger.error(
            "event=batch_line_failed request_id=%s error=%s detail=%r",
            call.id,
            type(error).__name__,
            shown,
        )
    return answer.status, answer.body()


def unanswered(line: RequestLine, code: str, message: str) -> AnswerLine:
    """What stands in the errors for a line that was not run."""
    error = LineError(code=code, message=message)
    return AnswerLine(id=new_id("batch_req_"), custom_id=line.custom_id, error=error)
