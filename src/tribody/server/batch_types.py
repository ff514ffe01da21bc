"""Batches as OpenAI has them on the wire, and what stands on the disk of one."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
BatchEndpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
]


class ExpiresAfter(msgspec.Struct, frozen=True, kw_only=True):
    anchor: Literal["created_at"]
    seconds: int


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    input_file_id: str
    endpoint: BatchEndpoint
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one line of the input, counted from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: BatchEndpoint
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: dict[str, str] | None = None


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """`output_id` and `error_id` are reserved when the batch is made, so that to write its results
    twice is to write them once.  `keep_seconds`: how long these are kept."""

    batch: BatchObject
    owner: str  # a Principal's tenant_id
    key_id: str  # of the key that it came with, and whose scope and limits hold for it
    output_id: str
    error_id: str
    keep_seconds: int


# --- lines -----------------------------------------------------------------------------------


class RequestLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a batch's input."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


class Streamed(msgspec.Struct, frozen=True):
    """The one field of a body that a batch cannot do as it says."""

    stream: bool | None = None


class LineResponse(msgspec.Struct, frozen=True, kw_only=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str


class AnswerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a batch's output or errors."""

    id: str
    custom_id: str
    response: LineResponse | None = None
    error: LineError | None = None


class JournalLine(msgspec.Struct, frozen=True, kw_only=True):
    """`line`: of the input, from 0.  `ok`: `answer` belongs into the output, else the errors."""

    line: int
    ok: bool
    answer: msgspec.Raw
