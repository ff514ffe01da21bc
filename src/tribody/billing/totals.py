"""What each tenant and key has used and holds in each day and month, beside its caps.

A request belongs to the day and month of its admission.  Only charged outcomes count as used.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

from tribody.billing import periods
from tribody.billing.records import CapName, CapReached, Reservation
from tribody.core.principal import Limits
from tribody.storage.database import Database, Value


class Change(NamedTuple):
    """What is added to a request's four totals."""

    tokens: int = 0
    micro: int = 0
    held_tokens: int = 0
    held_micro: int = 0


class Place(NamedTuple):
    """Where a request is counted."""

    tenant_id: str
    key_id: str
    at_ms: int
    currency: str

    def totals(self) -> tuple[tuple[str, str], ...]:
        """(scope, period) of each."""
        tenant, key = tenant_scope(self.tenant_id), key_scope(self.tenant_id, self.key_id)
        day, month = periods.day(self.at_ms), periods.month(self.at_ms)
        return (tenant, day), (tenant, month), (key, day), (key, month)


def tenant_scope(tenant_id: str) -> str:
    return f"tenant/{tenant_id}"


def key_scope(tenant_id: str, key_id: str) -> str:
    return f"tenant/{tenant_id}/key/{key_id}"


def add(db: Database, place: Place, change: Change) -> None:
    values: list[Value] = []
    for scope, period in place.totals():
        values += (scope, period, place.currency, *change)
    db.run(ADD, values)


ADD = (
    "INSERT INTO totals (scope, period, currency, tokens, micro, held_tokens, held_micro) "
    f"VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?)'] * 4)} "
    "ON CONFLICT (scope, period, currency) DO UPDATE SET "
    "tokens = totals.tokens + excluded.tokens, micro = totals.micro + excluded.micro, "
    "held_tokens = totals.held_tokens + excluded.held_tokens, "
    "held_micro = totals.held_micro + excluded.held_micro"
)

Unit = Literal["tokens", "micro"]
ScopeName = Literal["tenant", "key"]


def check_caps(db: Database, reservation: Reservation, place: Place) -> None:
    """Raises: CapReached when what is used, held and asked for comes to more than a cap."""
    limits = reservation.tenant_limits, reservation.key_limits
    if not any(map(_has_caps, limits)):
        return
    (tenant, day), (_, month), (key, _), _ = place.totals()
    used = _used(db, (tenant, key), (day, month), place.currency)
    tokens, micro = reservation.worst_tokens, reservation.worst_micro
    of_tenant: tuple[ScopeName, str, Limits] = ("tenant", tenant, limits[0])
    for name, scope, limit in (of_tenant, ("key", key, limits[1])):
        caps: tuple[tuple[CapName, Unit, str, int, int], ...] = (
            ("tokens_per_day", "tokens", day, tokens, limit.tokens_per_day),
            ("tokens_per_month", "tokens", month, tokens, limit.tokens_per_month),
            ("micro_per_day", "micro", day, micro, limit.micro_per_day),
            ("micro_per_month", "micro", month, micro, limit.micro_per_month),
        )
        for which, unit, period, asked, most in caps:
            if most and used.get((scope, period, unit), 0) + asked > most:
                end = periods.day_end_ms if period == day else periods.month_end_ms
                raise CapReached(which, most, scope=name, resets_ms=end(place.at_ms))


def _has_caps(limits: Limits) -> bool:
    return bool(
        limits.tokens_per_day
        or limits.tokens_per_month
        or limits.micro_per_day
        or limits.micro_per_month
    )


# Seven times as fast as `scope IN (?, ?) AND period IN (?, ?)`.
USED = " UNION ALL ".join(
    [
        "SELECT scope, period, currency, tokens + held_tokens, micro + held_micro FROM totals "
        "WHERE scope = ? AND period = ?"
    ]
    * 4
)


def _used(
    db: Database, scopes: tuple[str, str], names: tuple[str, str], currency: str
) -> dict[tuple[str, str, Unit], int]:
    """By scope, period and unit, held amounts included: tokens of all currencies, money of one."""
    values = [value for scope in scopes for name in names for value in (scope, name)]
    rows = db.rows(USED, values)
    used: dict[tuple[str, str, Unit], int] = {}
    for scope, period, of, tokens, micro in cast(list[tuple[str, str, str, int, int]], rows):
        used[scope, period, "tokens"] = used.get((scope, period, "tokens"), 0) + tokens
        if of == currency:
            used[scope, period, "micro"] = micro
    return used
