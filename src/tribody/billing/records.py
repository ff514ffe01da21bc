"""What is put into the ledger and what comes out of it, and why it may refuse."""

from __future__ import annotations

from typing import Literal

import msgspec

from tribody.billing.pricing import NOTHING_USED, FreeUsed, Priced, Quote
from tribody.core.errors import BadInput
from tribody.core.metering import Counts, Outcome
from tribody.core.principal import NO_LIMITS, Limits

EntryKind = Literal[
    "reserve",
    "settle",
    "usage",
    "accept",
    "decline",
    "expire",
    "top_up",
    "grant",
    "refund",
    "adjust",
    "tariff",
]
Purse = Literal["granted", "topped_up"]
CHARGED: frozenset[Outcome] = frozenset({"finished", "disconnect", "timeout"})
# The other outcomes are our failures, and free.
KEPT_KEY: frozenset[Outcome] = CHARGED - {"timeout"}
# After these an idempotency key stands for its request.  One that waited too long was not begun.


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may come to, held from its admission to its settlement.

    `at_ms` is the instant that it is priced at and whose day and month its caps are those of.
    `prompt_tokens` is the length that the quote was found for.  Without a `quote` nothing is
    charged; tokens are held and counted all the same.  `node_id` is the server that has it, which
    settles what it had left open when it starts again.  With an `idempotency_key` there is one such
    request to a tenant, with one body.
    """

    request_id: str
    node_id: str
    tenant_id: str
    user_id: str = ""
    key_id: str
    model: str
    route: str
    streamed: bool = False
    is_batch: bool = False
    at_ms: int
    prompt_tokens: int = 0
    quote: Quote | None
    worst_micro: int = 0
    worst_tokens: int = 0
    credit_micro: int = 0
    tenant_limits: Limits = NO_LIMITS
    key_limits: Limits = NO_LIMITS
    idempotency_key: str | None = None
    body_digest: str | None = None


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """How one request was settled; written into its entry as it stands.

    `micro` was taken for its tokens, `granted_micro` of it from granted money.  `free_used` is what
    had been used of the quote's allowance before.  `result_micro` stays held until the result is
    accepted or declined, or `result_until_ms` has passed.
    """

    request_id: str
    tenant_id: str
    outcome: Outcome
    counts: Counts
    quote: Quote | None
    priced: Priced | None = None
    free_used: FreeUsed = NOTHING_USED
    currency: str = ""
    micro: int = 0
    granted_micro: int = 0
    result_micro: int = 0
    result_until_ms: int = 0


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's money in one currency.  What is held is still in the other two."""

    currency: str
    granted_micro: int = 0
    topped_up_micro: int = 0
    held_micro: int = 0

    @property
    def available_micro(self) -> int:
        """What the next request may hold."""
        return self.granted_micro + self.topped_up_micro - self.held_micro


class NoBalance(BadInput):
    """The tenant's money does not cover what was to be taken or held."""

    def __init__(self, needed_micro: int, available_micro: int, currency: str) -> None:
        super().__init__(
            f"{needed_micro} micro-{currency} are needed and {available_micro} are available; "
            "top up the balance"
        )
        self.needed_micro = needed_micro
        self.available_micro = available_micro
        self.currency = currency


CapName = Literal["tokens_per_day", "tokens_per_month", "micro_per_day", "micro_per_month"]


class CapReached(BadInput):
    """A tenant or a key would pass what it may use in a day or a month."""

    def __init__(
        self, which: CapName, limit: int, *, scope: Literal["tenant", "key"], resets_ms: int
    ) -> None:
        super().__init__(
            f"the {scope}'s limit of {limit} {which.replace('_', ' ')} is reached; wait for the "
            "next one, ask for less, or have the limit raised"
        )
        self.which = which
        self.limit = limit
        self.scope = scope
        self.resets_ms = resets_ms


class IdempotencyConflict(BadInput):
    """The same idempotency key came with something else."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the idempotency key {key[:64]!r} was used for another body; use a new one"
        )


class AlreadyReserved(BadInput):
    """This request, or another with its idempotency key, has been admitted before.

    `state` is "open" or its outcome.
    """

    def __init__(self, request_id: str, state: str) -> None:
        super().__init__(f"the request was admitted before, as {request_id} ({state})")
        self.request_id = request_id
        self.state = state


class UnknownRequest(BadInput):
    """Nothing was reserved under this id, or it has no result to accept."""

    def __init__(self, request_id: str, what: str) -> None:
        super().__init__(f"the ledger has no {what} of the request {request_id[:80]!r}")


class AmountRefused(BadInput):
    """An amount that is no whole number of micro-units within the limits."""
