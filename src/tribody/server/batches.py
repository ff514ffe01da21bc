"""/v1/batches: many requests in one file, answered when there is time.  The shapes are OpenAI's."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import BadValue
from tribody.core.sampling_ranges import Range
from tribody.server import limits
from tribody.server.batch_types import BatchObject, BatchRequest
from tribody.server.files import answered, check_keep_seconds
from tribody.server.offline import BatchesQuery, offline_of
from tribody.server.queries import page, query_of
from tribody.server.service import Service, decode_any, read_body


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


async def create_batch(http: HttpRequest) -> Response:
    """POST.  Raises: BadRequest, TooManyRequests."""
    service: Service = http.app.state.service
    offline = offline_of(http)
    body = await read_body(http)
    fields, ignored = await service.off_loop(decode_any, body, BatchRequest)
    if fields.output_expires_after is not None:
        check_keep_seconds("output_expires_after", fields.output_expires_after.seconds)
    _check_metadata(fields.metadata or {})
    return answered(await offline.batches.create(fields, http.state.principal), ignored)


def _check_metadata(metadata: dict[str, str]) -> None:
    limits.check_count("metadata", len(metadata), limits.MAX_METADATA, "pairs")
    for key, value in metadata.items():
        if len(key) > limits.MAX_METADATA_KEY or len(value) > limits.MAX_METADATA_VALUE:
            raise BadValue(
                f"metadata may have keys of {limits.MAX_METADATA_KEY} and values of "
                f"{limits.MAX_METADATA_VALUE} characters.",
                param="metadata",
            )


async def list_batches(http: HttpRequest) -> Response:
    """GET: the caller's, the newest first."""
    offline = offline_of(http)
    query, ignored = query_of(http, BatchesQuery)
    limits.check_bounds("limit", query.limit, Range(1, limits.MAX_LISTED_BATCHES))
    found = offline.batches.owned(http.state.principal.tenant_id)[::-1]
    shown, more = page(found, query.after, query.limit, lambda batch: batch.id)
    ids: list[str | None] = [batch.id for batch in shown]
    ids = ids or [None]
    made = BatchList(data=shown, first_id=ids[0], last_id=ids[-1], has_more=more)
    return answered(made, ignored)


async def show_batch(http: HttpRequest) -> Response:
    owner, batch_id = http.state.principal.tenant_id, http.path_params["batch_id"]
    return answered(offline_of(http).batches.find(owner, batch_id), [])


async def cancel_batch(http: HttpRequest) -> Response:
    """What is under way is dropped, what is answered is kept."""
    owner, batch_id = http.state.principal.tenant_id, http.path_params["batch_id"]
    return answered(offline_of(http).batches.cancel(owner, batch_id), [])
