"""What every endpoint shares: the state of one application, and the way from a body to an answer.

Rendering templates and tokenizing run in worker threads (`off_loop`), so that one large prompt
does not hold up everybody's streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

import anyio
import anyio.to_thread
import msgspec
from starlette.requests import Request as HttpRequest

from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.clock import Clock
from tribody.core.errors import BadRequest, TribodyError
from tribody.core.metering import Counts
from tribody.core.principal import LOCAL, Principal
from tribody.core.request import Request, SamplingParams
from tribody.server import limits
from tribody.server.auth import Keys, cache_salt
from tribody.server.call import Call
from tribody.server.errors import Draining, TooManyRequests, bad_json
from tribody.server.json_size import check_containers
from tribody.server.metering import Bill, Books, Demand, Meter, Unmetered
from tribody.server.metrics import Metrics
from tribody.server.models_table import ModelsTable, ServedModel, ServedName, no_such_model
from tribody.server.recent_prompts import RecentPrompts
from tribody.server.replays import Replays
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
    keys: Keys | None
    clock: Clock
    wall_seconds: Callable[[], float]
    api: ApiSettings = DEFAULT_API  # for callers without settings of their own
    books: Books | None = None  # without them nothing is counted
    meter: Meter = field(init=False)
    draining: bool = False
    in_flight: int = 0
    in_flight_of: Counter[str] = field(default_factory=Counter)  # by key, and by tenant
    grammars: GrammarCheck = field(default_factory=GrammarCheck)
    recent_prompts: RecentPrompts = field(default_factory=RecentPrompts)
    replays: Replays = field(init=False)
    text_limiter: anyio.CapacityLimiter | None = field(default=None)
    endings: set[asyncio.Task[None]] = field(default_factory=set)  # what `to_the_end` runs

    def __post_init__(self) -> None:
        self.replays = Replays(self.clock)
        self.meter = Unmetered() if self.books is None else self.books.meter(self.metrics)

    def local_caller(self) -> Principal:
        """Who calls when nobody needs a key: this machine's user."""
        return msgspec.structs.replace(LOCAL, api=self.api)

    def caller_of(self, tenant_id: str, key_id: str) -> Principal | None:
        """Whom work is done for that came with a tenant's key; None: it may not come in now."""
        found = self.local_caller() if self.keys is None else self.keys.of_key(key_id)
        return found if found is not None and found.tenant_id == tenant_id else None

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
        key, tenant = f"key/{caller.key_id}", f"tenant/{caller.tenant_id}"
        for name, most in (
            (key, caller.api.max_concurrency),
            (key, caller.key_limits.concurrency),
            (tenant, caller.tenant_limits.concurrency),
        ):
            if most and self.in_flight_of[name] >= most:
                raise TooManyRequests(
                    f"Rate Limit Reached: {most} of your requests are under way, which is as many "
                    "as may be; send this one again when one has ended."
                )
        self.in_flight += 1
        self.in_flight_of.update((key, tenant))
        try:
            yield
        finally:
            self.in_flight -= 1
            self.in_flight_of.subtract((key, tenant))
            for name in (key, tenant):
                if not self.in_flight_of[name]:
                    del self.in_flight_of[name]

    def find_model(self, name: str, caller: Principal) -> ServedName:
        """Raises: BadRequest (404) when no model has this name, or none that the caller may use."""
        served = self.models.find(name)
        if caller.models is not None and not caller.models & {name, served.model.model_id}:
            raise no_such_model(name)
        return served

    def new_call(
        self, request_id: str, caller: Principal, route: str, *, is_batch: bool = False
    ) -> Call:
        """A call that has come now."""
        return Call(
            id=request_id,
            caller=caller,
            route=route,
            started=self.clock.now(),
            at_ms=int(self.wall_seconds() * 1e3),
            is_batch=is_batch,
        )

    async def admit(self, demand: Demand) -> Bill:
        """The meter's bill.  A caller that leaves meanwhile owes nothing.

        Raises: as `Meter.admit`.
        """
        admitting = asyncio.ensure_future(self.meter.admit(demand))
        try:
            return await asyncio.shield(admitting)
        except asyncio.CancelledError:
            self._begin(_give_back(admitting))
            raise

    async def to_the_end(self, work: Coroutine[None, None, None]) -> None:
        """Run `work`, which goes on when whoever waits for it is cancelled."""
        await asyncio.shield(self._begin(work))

    async def settled(self, seconds: float) -> None:
        """Wait, at most so long, until everything that ends has ended."""
        if self.endings:
            await asyncio.wait(self.endings, timeout=seconds)

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.endings.add(task)
        task.add_done_callback(self.endings.discard)
        return task

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


async def _give_back(admitting: asyncio.Future[Bill]) -> None:
    with contextlib.suppress(TribodyError):
        await (await admitting).settle(Counts(), "disconnect")


async def read_body(http: HttpRequest, most_bytes: int | None = None) -> bytes:
    """Read the whole body.  Raises: as `body_parts`."""
    return b"".join([part async for part in body_parts(http, most_bytes)])


async def body_parts(
    http: HttpRequest, most_bytes: int | None = None
) -> AsyncGenerator[bytes, None]:
    """The body as it comes, never more than the limit.

    Raises: BadRequest (413) as soon as the limit is known to be passed.
    """
    most_bytes = limits.MAX_BODY_BYTES if most_bytes is None else most_bytes
    too_large = BadRequest(
        f"The request body is larger than {most_bytes} bytes.",
        status=413,
        code="request_too_large",
    )
    declared = http.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > most_bytes:
        raise too_large
    size = 0
    async for part in http.stream():
        size += len(part)
        if size > most_bytes:
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
    check_containers(body)
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
        tenant=caller.tenant_id,
        weight=caller.weight,
    )
