"""The meter of a server with accounts: rates, caps and money before a call, its charge after it.

A call is admitted when its key and tenant have room in the minute, its model has a price, and the
ledger has reserved the worst that it can cost.  All of that is settled by what it really used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tribody.billing.pricing import Quote, worst_case
from tribody.billing.records import (
    KEPT_KEY,
    AlreadyReserved,
    CapReached,
    IdempotencyConflict,
    NoBalance,
    Reservation,
)
from tribody.billing.reservations import reserve
from tribody.billing.settlement import settle
from tribody.billing.tariffs import Tariff
from tribody.core.errors import BadRequest, NoPrice, TribodyError
from tribody.core.metering import Counts, Outcome
from tribody.server.call import Call
from tribody.server.errors import Forbidden, TooManyRequests
from tribody.server.metering import Bill, Demand, Unmetered, Watch
from tribody.storage.writer import Writer
from tribody.tenancy.rates import RateLimited, Rates, Remaining, Room, Taken


@dataclass(frozen=True)
class LedgerMeter:
    """See the module's docstring.  `tariff` gives the one that holds now."""

    writer: Writer
    rates: Rates
    tariff: Callable[[], Tariff | None]
    node_id: str
    wall_seconds: Callable[[], float]
    watch: Watch

    async def admit(self, demand: Demand) -> Bill:
        """Raises: as `Meter.admit`."""
        call = demand.call
        try:
            taken = self.rates.take(call.caller, demand.prompt_tokens)
        except RateLimited as limited:
            call.headers.update(rate_headers(limited.remaining))
            raise
        call.headers.update(rate_headers(taken.remaining))
        try:
            reservation = self._reservation(demand)
            await self.writer.run(lambda db: reserve(db, reservation))
        except TribodyError as error:
            self.rates.give_back(taken)
            if _is_charged_line(call, error):
                return Unmetered()
            raise self._for_callers(error) from None
        return _Reserved(self, demand, taken)

    def _reservation(self, demand: Demand) -> Reservation:
        call, caller = demand.call, demand.call.caller
        quote = self._quote(demand)
        return Reservation(
            request_id=call.id,
            node_id=self.node_id,
            tenant_id=caller.tenant_id,
            user_id=caller.user_id,
            key_id=caller.key_id,
            model=demand.model_id,
            route=call.route,
            streamed=call.streamed,
            is_batch=call.is_batch,
            at_ms=call.at_ms,
            prompt_tokens=demand.longest_prompt,
            quote=quote,
            worst_micro=worst_case(quote, demand.prompt_tokens, demand.completion_tokens),
            worst_tokens=demand.prompt_tokens + demand.completion_tokens,
            credit_micro=caller.credit_micro,
            tenant_limits=caller.tenant_limits,
            key_limits=caller.key_limits,
            idempotency_key=call.identity.key if call.identity else None,
            body_digest=call.identity.digest if call.identity else None,
        )

    def _quote(self, demand: Demand) -> Quote:
        """Raises: Forbidden where the model has no price, which is never taken for nothing."""
        caller = demand.call.caller
        tariff = self.tariff()
        try:
            if tariff is None:
                raise NoPrice("no tariff is in use")
            return tariff.find(
                model=demand.model_id,
                tenant_id=caller.tenant_id,
                at_ms=demand.call.at_ms,
                prompt_tokens=demand.longest_prompt,
                is_batch=demand.call.is_batch,
                currency=caller.currency or None,
            )
        except NoPrice:
            raise Forbidden(
                f"The model {demand.model_id!r} has no price for this account now; ask whoever "
                "runs this server."
            ) from None

    def _for_callers(self, error: TribodyError) -> TribodyError:
        """What the ledger refuses, in the API's words."""
        match error:
            case NoBalance():
                return BadRequest("Insufficient Balance", status=402, code="insufficient_balance")
            case CapReached():
                seconds = max(1, -(-(error.resets_ms - int(self.wall_seconds() * 1e3)) // 1000))
                return TooManyRequests(f"Rate Limit Reached: {error}.", seconds)
            case IdempotencyConflict():
                return BadRequest(
                    "This Idempotency-Key was used with another request; use a new one.",
                    status=422,
                    code="idempotency_conflict",
                )
            case AlreadyReserved():
                return BadRequest(
                    f"This Idempotency-Key was used by the request {error.request_id} "
                    f"({error.state}); it is charged once, and its answer is not kept.",
                    status=409,
                    code="idempotency_key_used",
                )
            case _:
                return error


def _is_charged_line(call: Call, error: TribodyError) -> bool:
    """Whether a line of a batch was charged before the crash that lost its answer."""
    return call.is_batch and isinstance(error, AlreadyReserved) and error.state in KEPT_KEY


@dataclass(frozen=True)
class _Reserved:
    meter: LedgerMeter
    demand: Demand
    taken: Taken

    async def settle(self, counts: Counts, outcome: Outcome) -> None:
        meter, request_id = self.meter, self.demand.call.id
        ended_ms = int(meter.wall_seconds() * 1e3)
        meter.rates.correct(self.taken, counts.prompt_tokens + counts.completion_tokens)
        await meter.writer.run(lambda db: settle(db, request_id, counts, outcome, ended_ms))
        meter.watch.settled(counts)


def rate_headers(remaining: Remaining) -> dict[str, str]:
    """x-ratelimit-* as OpenAI's clients know them; of limits that there are."""
    headers: dict[str, str] = {}
    for kind, room in (("requests", remaining.requests), ("tokens", remaining.tokens)):
        if room is not None:
            headers |= _room_headers(kind, room)
    return headers


def _room_headers(kind: str, room: Room) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(room.limit),
        f"x-ratelimit-remaining-{kind}": str(room.remaining),
        f"x-ratelimit-reset-{kind}": f"{room.reset_seconds}s",
    }
