"""What every endpoint of the admin API shares: the way to the database, and to an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.billing.ledger import AmountRefused, IdempotencyConflict, NoBalance
from tribody.core.errors import BadInput, BadRequest, BadTariff, BadValue
from tribody.server.admin.amounts import amount_text
from tribody.server.admin.verification import Verifier
from tribody.server.errors import MAX_NAME_SHOWN, bad_json
from tribody.server.queries import query_of
from tribody.server.service import read_body
from tribody.storage.database import Database
from tribody.storage.writer import Writer
from tribody.tenancy.live import LiveDirectory
from tribody.tenancy.records import AlreadyThere, NotThere

MAX_BODY_BYTES = 2**20  # a price list is the largest that is sent; DeepSeek's history has 20 KiB
WHO = "admin-api"  # as the ledger and the record of changes name it

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class Reads(Protocol):
    """Runs a work on a connection that only reads, in a worker thread."""

    async def run(self, work: Callable[[Database], T]) -> T: ...


@dataclass(frozen=True, kw_only=True)
class AdminState:
    """What the endpoints work on.  `verifier` and `directory` are the running server's."""

    writer: Writer
    reader: Reads
    secret: bytes  # that API keys are made with
    wall_seconds: Callable[[], float]
    verifier: Verifier
    directory: LiveDirectory
    node_id: str

    def now_ms(self) -> int:
        return int(self.wall_seconds() * 1e3)

    async def write(self, work: Callable[[Database], T]) -> T:
        """Its result when it is on the disk.  Raises: BadRequest, StorageFailed."""
        with for_callers():
            return await self.writer.run(work)

    async def read(self, work: Callable[[Database], T]) -> T:
        """Raises: BadRequest, StorageFailed."""
        with for_callers():
            return await self.reader.run(work)


def state_of(http: HttpRequest) -> AdminState:
    state: AdminState = http.app.state.admin
    return state


@contextmanager
def for_callers() -> Iterator[None]:
    """What the layers below refuse becomes a refusal of the request, in the words of the wire."""
    try:
        yield
    except BadRequest:
        raise
    except NotThere as error:
        raise BadRequest(_sentence(error), status=404, code="not_found") from error
    except AlreadyThere as error:
        raise BadRequest(_sentence(error), param="id", status=409, code="already_exists") from error
    except IdempotencyConflict as error:
        raise BadRequest(
            _sentence(error), param="Idempotency-Key", status=422, code="idempotency_conflict"
        ) from error
    except NoBalance as error:
        needed, there = amount_text(error.needed_micro), amount_text(error.available_micro)
        raise BadRequest(
            f"{needed} {error.currency} are to be taken away and {there} are there; what is held "
            "for requests under way cannot be taken.",
            param="amount",
            status=409,
            code="insufficient_balance",
        ) from error
    except AmountRefused as error:
        raise BadRequest(_sentence(error), param="amount", code="amount_refused") from error
    except BadTariff as error:
        raise BadRequest(_sentence(error), param="text", code="bad_tariff") from error
    except BadInput as error:
        raise BadRequest(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def no_such(what: str) -> BadRequest:
    return BadRequest(f"There is no such {what}.", status=404, code="not_found")


# --- what comes in and goes out --------------------------------------------------------------


async def body_of(http: HttpRequest, kind: type[S]) -> S:
    """The body, in full: a field that is not known is refused.  Raises: BadRequest."""
    body = await read_body(http, MAX_BODY_BYTES)
    try:
        body.decode()  # msgspec does not look into what it skips
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise bad_json(error) from error


def parameters_of(http: HttpRequest, kind: type[S]) -> S:
    """As `body_of`, for what stands behind the path's `?`."""
    query, unknown = query_of(http, kind)
    for name, value in http.query_params.items():
        if "\0" in value:  # PostgreSQL has no such text
            raise BadValue(f"{name[:MAX_NAME_SHOWN]} holds a null character.", param=name)
    if unknown:
        name = unknown[0][:MAX_NAME_SHOWN]
        known = ", ".join(kind.__struct_fields__)
        raise BadRequest(f"Unknown parameter: '{name}'; known are {known}.", param=name)
    return query


def answered(payload: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(payload), media_type="application/json")
