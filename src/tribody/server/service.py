"""What every endpoint shares: the state of one application, and the way from a body to an answer.

Rendering templates and tokenizing run in worker threads (`off_loop`), so that one large prompt
does not hold up everybody's streams.
"""

from __future__ import annotations

import functools
import re
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

import anyio
import anyio.to_thread
import msgspec
from starlette.requests import Request as HttpRequest

from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.clock import Clock
from tribody.core.errors import BadRequest
from tribody.core.principal import LOCAL, Principal
from tribody.core.request import Request, SamplingParams
from tribody.server import limits
from tribody.server.auth import KeyFile, cache_salt
from tribody.server.errors import Draining, TooManyRequests, bad_json
from tribody.server.metrics import Metrics
from tribody.server.models_table import ModelsTable, ServedModel
from tribody.server.recent_prompts import RecentPrompts
from tribody.server.types import SamplingFields
from tribody.server.validation import check_fields, unknown_fields
from tribody.text.grammar_process import GrammarCheck

NUM_TEXT_THREADS = 2
# Rendering and tokenizing at once: enough that a large prompt does not block a small one, few
# enough that the engine keeps its cores.

T = TypeVar("T")
Fields = TypeVar("Fields", bound=SamplingFields)
AnyFields = TypeVar("AnyFields", bound=msgspec.Struct)
SAFE_FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class AnswerHead(TypedDict):
    """What every object of one answer repeats, as keyword arguments of its wire type."""

    id: str
    created: int
    model: str
    system_fingerprint: str


@dataclass
class Service:
    """One application's state.  `draining` is set once and never cleared."""

    models: ModelsTable
    metrics: Metrics
    keys: KeyFile | None
    clock: Clock
    wall_seconds: Callable[[], float]
    api: ApiSettings = DEFAULT_API  # for callers without settings of their own
    draining: bool = False
    in_flight: int = 0
    in_flight_of: Counter[str] = field(default_factory=Counter)  # by key
    grammars: GrammarCheck = field(default_factory=GrammarCheck)
    recent_prompts: RecentPrompts = field(default_factory=RecentPrompts)
    text_limiter: anyio.CapacityLimiter | None = field(default=None)

    def local_caller(self) -> Principal:
        """Who calls when nobody needs a key: this machine's user."""
        return msgspec.structs.replace(LOCAL, api=self.api)

    def caller_of(self, tenant_id: str) -> Principal | None:
        """Whom work on behalf of a tenant is done for; None: it may no longer come in."""
        if self.keys is not None:
            return self.keys.of_tenant(tenant_id)
        local = self.local_caller()
        return local if tenant_id == local.tenant_id else None

    @contextmanager
    def admitted(self, caller: Principal) -> Iterator[None]:
        """Hold a place in the count that a drain waits for, from receipt to the answer's end.

        Raises: Draining when the server is shutting down, TooManyRequests when the caller has no
        place left.
        """
        if self.draining:
            raise Draining(
                "The server is shutting down; send the request again elsewhere or later."
            )
        most, key = caller.api.max_concurrency, caller.key_id
        if most and self.in_flight_of[key] >= most:
            raise TooManyRequests(
                f"Rate Limit Reached: {most} of your requests are under way, which is as many as "
                "may be; send this one again when one has ended."
            )
        self.in_flight += 1
        self.in_flight_of[key] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self.in_flight_of[key] -= 1
            if not self.in_flight_of[key]:
                del self.in_flight_of[key]

    def answer_head(self, model: ServedModel, request_id: str) -> AnswerHead:
        return AnswerHead(
            id=request_id,
            created=int(self.wall_seconds()),
            model=model.model_id,
            system_fingerprint=model.system_fingerprint,
        )

    async def off_loop(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work(*arguments)` in one of the few text threads."""
        if self.text_limiter is None:  # made here because it needs a running event loop
            self.text_limiter = anyio.CapacityLimiter(NUM_TEXT_THREADS)
        call = functools.partial(work, *arguments)
        return await anyio.to_thread.run_sync(call, limiter=self.text_limiter)


async def read_body(http: HttpRequest) -> bytes:
    """Read the whole body.  Raises: as `body_parts`."""
    return b"".join([part async for part in body_parts(http)])


async def body_parts(http: HttpRequest) -> AsyncGenerator[bytes, None]:
    """The body as it comes, never more than the limit.

    Raises: BadRequest (413) as soon as the limit is known to be passed.
    """
    too_large = BadRequest(
        f"The request body is larger than {limits.MAX_BODY_BYTES} bytes.",
        status=413,
        code="request_too_large",
    )
    declared = http.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.MAX_BODY_BYTES:
        raise too_large
    size = 0
    async for part in http.stream():
        size += len(part)
        if size > limits.MAX_BODY_BYTES:
            raise too_large
        yield part


def decode(body: bytes, kind: type[Fields]) -> tuple[Fields, list[str]]:
    """As `decode_any`, and range-checked."""
    fields, ignored = decode_any(body, kind)
    check_fields(fields)
    return fields, ignored


def decode_any(body: bytes, kind: type[AnyFields]) -> tuple[AnyFields, list[str]]:
    """The typed fields of a body, and the names of the fields that we do not know.

    Raises: BadRequest that names the parameter.
    """
    try:
        body.decode()  # msgspec does not look into fields that it skips
        fields = msgspec.json.decode(body, type=kind)
        ignored = unknown_fields(body, kind.__struct_fields__)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise bad_json(error) from error
    return fields, ignored


def ignored_header(names: list[str]) -> dict[str, str]:
    """The header that names tolerated fields; a strange name shows as `?`."""
    if not names:
        return {}
    shown = [name if SAFE_FIELD_NAME.fullmatch(name) else "?" for name in names]
    more = len(shown) - limits.MAX_IGNORED_FIELDS
    shown = shown[: limits.MAX_IGNORED_FIELDS] + ([f"and {more} more"] if more > 0 else [])
    return {"x-tribody-ignored": ", ".join(shown)}


def engine_request(
    fields: SamplingFields, prompt_token_ids: list[int], sampling: SamplingParams, caller: Principal
) -> Request:
    """The carrier for the engine.  Its id is ours; a client never chooses one."""
    user = msgspec.json.encode([fields.user, fields.user_id]).decode()
    return Request(
        id=str(uuid.uuid4()),
        prompt_token_ids=prompt_token_ids,
        sampling=sampling,
        n=fields.n or 1,
        cache_salt=cache_salt(caller, user if fields.user or fields.user_id else ""),
        priority=caller.priority,
    )
