"""What a request has used, and how it ended: the carriers from the server to the ledger."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["finished", "disconnect", "timeout", "error", "restart", "drain", "refused"]
# `disconnect`: the caller left; `timeout`: it had waited too long; the others but `finished` are
# the server's doing.


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens to be charged, from the scheduler's own books.

    The rule for requests that were cut short has been applied: the prompt counts once prefill has
    run, completion tokens as they were generated.  `cached_tokens` of the `prompt_tokens` came from
    the prefix cache, `reasoning_tokens` of the `completion_tokens` were thinking.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it is kept: who, what, when, how much.  Never a text.

    Instants are UTC, in milliseconds of the Unix epoch; `started_ms` is the one that it is priced
    at.  `route` is a label from a closed set.
    """

    request_id: str
    tenant_id: str
    user_id: str
    key_id: str
    model: str
    route: str
    streamed: bool
    is_batch: bool
    started_ms: int
    ended_ms: int
    counts: Counts
    outcome: Outcome
