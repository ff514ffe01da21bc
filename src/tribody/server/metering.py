"""What a request may use and what it has used: the seam between answering and accounting.

A `Meter` admits a call before the engine sees it and gives its `Bill`, which is settled exactly
once, on every way out.  Here are the two that need no ledger; `accounts` has the one that charges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tribody.billing.records import Balance
from tribody.billing.results import Decided
from tribody.core.metering import Counts, Outcome, UsageRecord
from tribody.server.call import Call


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The most that a call can use.  Prompts are counted together; `longest_prompt` is that of the
    longest one; `completion_tokens` are those of all choices at their `max_tokens`."""

    call: Call
    model_id: str
    prompt_tokens: int
    longest_prompt: int
    completion_tokens: int


class Bill(Protocol):
    """One admitted call.  It must be settled once."""

    async def settle(self, counts: Counts, outcome: Outcome) -> None:
        """Returns when what was used is on the disk.  Raises: StorageFailed."""


class Meter(Protocol):
    """Who admits calls."""

    async def admit(self, demand: Demand) -> Bill:
        """Raises: TooManyRequests, BadRequest (402, 403, 409, 422), StorageFailed."""


class Watch(Protocol):
    """Who counts what the books do; from any thread, quickly, without raising."""

    def ledger_commit(self, seconds: float) -> None: ...
    def settled(self, counts: Counts) -> None: ...


class Figures(NamedTuple):
    """How the books are doing.  `imbalance`: what all accounts of a currency come to: 0."""

    unsettled: int
    imbalance: dict[str, int]  # micro-units
    directory_age_seconds: float


class Books(Protocol):
    """Where a server keeps what was used."""

    def meter(self, watch: Watch) -> Meter: ...

    async def figures(self) -> Figures | None:
        """None where nothing is charged, or while the books cannot be read."""

    async def balances(self, tenant_id: str) -> list[Balance] | None:
        """A tenant's money, by currency; None where nothing is charged.  Raises: StorageFailed."""

    async def accept(self, tenant_id: str, request_id: str, *, accepted: bool) -> Decided:
        """Decide on an answer that is paid for by result.

        Raises: UnknownRequest when the tenant has none; StorageFailed.
        """

    def summary(self) -> str | None:
        """For the person who starts the server."""

    @property
    def trouble(self) -> str | None:
        """Why no work can be taken now."""

    async def start(self) -> None:
        """Within the event loop, before the first call.  Raises: StorageFailed."""

    async def close(self) -> None:
        """When every bill is settled."""


class Unmetered:
    """Of commands that answer for themselves: nothing is counted."""

    async def admit(self, demand: Demand) -> Bill:
        return self

    async def settle(self, counts: Counts, outcome: Outcome) -> None:
        pass


@dataclass(frozen=True)
class UsageMeter:
    """Without accounts everyone is admitted; what was used is passed to `record`."""

    record: Callable[[UsageRecord], None]
    wall_seconds: Callable[[], float]

    async def admit(self, demand: Demand) -> Bill:
        return _Noted(self, demand)


@dataclass(frozen=True)
class _Noted:
    meter: UsageMeter
    demand: Demand

    async def settle(self, counts: Counts, outcome: Outcome) -> None:
        ended_ms = int(self.meter.wall_seconds() * 1e3)
        self.meter.record(usage_record(self.demand, counts, outcome, ended_ms))


def usage_record(demand: Demand, counts: Counts, outcome: Outcome, ended_ms: int) -> UsageRecord:
    """What is kept of a call."""
    call = demand.call
    return UsageRecord(
        request_id=call.id,
        tenant_id=call.caller.tenant_id,
        user_id=call.caller.user_id,
        key_id=call.caller.key_id,
        model=demand.model_id,
        route=call.route,
        streamed=call.streamed,
        is_batch=call.is_batch,
        started_ms=call.at_ms,
        ended_ms=ended_ms,
        counts=counts,
        outcome=outcome,
    )
