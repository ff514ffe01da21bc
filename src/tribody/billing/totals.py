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
    db.run(
        "INSERT INTO totals (scope, period, currency, tokens, micro, held_tokens, held_micro) "
        "VALUES (?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?), "
        "(?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (scope, period, currency) DO UPDATE SET "
        "tokens = totals.tokens + excluded.tokens, micro = totals.micro + excluded.micro, "
        "held_tokens = totals.held_tokens + excluded.held_tokens, "
        "held_micro = totals.held_micro + excluded.held_micro",
        values,
    )


def check_caps(db: Database, reservation: Reservation, place: Place) -> None:
    """Raises: CapReached when what is used, held and asked for comes to more than a cap."""
    limits = (
        ("tenant", tenant_scope(reservation.tenant_id), reservation.tenant_limits),
        ("key", key_scope(reservation.tenant_id, reservation.key_id), reservation.key_limits),
    )
    asked = {"tokens": reservation.worst_tokens, "micro": reservation.worst_micro}
    scope_kind: Literal["tenant", "key"]
    for scope_kind, scope, limit in limits:  # type: ignore[assignment]
        caps = _caps(limit, reservation.at_ms)
        if not caps:
            continue
        used = _used(db, scope, reservation.at_ms, place.currency)
        for which, unit, period, most, resets_ms in caps:
            if used.get((period, unit), 0) + asked[unit] > most:
                raise CapReached(which, most, scope=scope_kind, resets_ms=resets_ms)


Unit = Literal["tokens", "micro"]


def _caps(limits: Limits, at_ms: int) -> list[tuple[CapName, Unit, str, int, int]]:
    """(name, unit, period, most, when it begins anew) of the caps that are set."""
    day, month = periods.day(at_ms), periods.month(at_ms)
    caps: tuple[tuple[CapName, Unit, str, int], ...] = (
        ("tokens_per_day", "tokens", day, limits.tokens_per_day),
        ("tokens_per_month", "tokens", month, limits.tokens_per_month),
        ("micro_per_day", "micro", day, limits.micro_per_day),
        ("micro_per_month", "micro", month, limits.micro_per_month),
    )
    return [
        (
            which,
            unit,
            period,
            most,
            periods.day_end_ms(at_ms) if period == day else periods.month_end_ms(at_ms),
        )
        for which, unit, period, most in caps
        if most
    ]


def _used(db: Database, scope: str, at_ms: int, currency: str) -> dict[tuple[str, Unit], int]:
    """By period and unit, held amounts included: tokens of all currencies, money of one."""
    rows = db.rows(
        "SELECT period, currency, tokens + held_tokens, micro + held_micro FROM totals "
        "WHERE scope = ? AND period IN (?, ?)",
        (scope, periods.day(at_ms), periods.month(at_ms)),
    )
    used: dict[tuple[str, Unit], int] = {}
    for period, in_currency, tokens, micro in cast(list[tuple[str, str, int, int]], rows):
        used[period, "tokens"] = used.get((period, "tokens"), 0) + tokens
        if in_currency == currency:
            used[period, "micro"] = micro
    return used
