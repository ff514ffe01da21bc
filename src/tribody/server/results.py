"""POST /v1/results/{request_id}: accept an answer that is paid for by result, or decline it.

By the caller, or by whoever checks answers for it with a key of the same tenant (which may be for
`results` only).  The first decision stands; one that is not made in time is a decline.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.billing.money import show_micro
from tribody.billing.records import UnknownRequest
from tribody.core.errors import BadRequest
from tribody.core.principal import Principal
from tribody.server.service import Service, decode_any, ignored_header, read_body

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,96}")
DECISIONS: dict[str, Literal["accepted", "declined", "expired"]] = {
    "accept": "accepted",
    "decline": "declined",
    "expire": "expired",
}


class ResultRequest(msgspec.Struct, frozen=True, kw_only=True):
    accepted: bool


class ResultDecision(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` is what was charged for the result, besides its tokens, exactly."""

    id: str
    object: Literal["result"] = "result"
    decision: Literal["accepted", "declined", "expired"]
    amount: str
    currency: str


async def decide_result(http: HttpRequest) -> Response:
    """The endpoint.  Raises: BadRequest (404) where the caller has no such answer."""
    service: Service = http.app.state.service
    caller: Principal = http.state.principal
    fields, ignored = decode_any(await read_body(http), ResultRequest)
    request_id = http.path_params["request_id"]
    books = service.books
    if books is None or not caller.is_charged or REQUEST_ID.fullmatch(request_id) is None:
        raise _no_result()
    try:
        decided = await books.accept(caller.tenant_id, request_id, accepted=fields.accepted)
    except UnknownRequest:
        raise _no_result() from None
    told = ResultDecision(
        id=request_id,
        decision=DECISIONS[decided.decision],
        amount=show_micro(decided.micro),
        currency=decided.currency,
    )
    headers = ignored_header(ignored)
    return Response(msgspec.json.encode(told), headers=headers, media_type="application/json")


def _no_result() -> BadRequest:
    return BadRequest(
        "No answer of yours waits for its acceptance under this id; it is the x-request-id of a "
        "request whose price has a part for results.",
        param="request_id",
        status=404,
        code="result_not_found",
    )
