"""Answers that are paid for when they are accepted.

What such an answer costs stays held after its request was settled, until the caller (or whoever
checks it) accepts or declines, or the time for that is over.  The first decision stands.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import msgspec

from tribody.billing import totals
from tribody.billing.entries import Entry, account_balances, append, granted
from tribody.billing.records import UnknownRequest
from tribody.billing.settlement import from_granted, release, taking
from tribody.storage.database import Database

Decision = Literal["accept", "decline", "expire"]


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided on one answer.  `settled` is the entry that had settled its request."""

    settled: int
    decision: Decision
    currency: str
    micro: int = 0
    granted_micro: int = 0


def accept(db: Database, request_id: str, accepted: bool, at_ms: int) -> Decided:
    """Take the answer's price if it is accepted in time; let go of it if not.

    A second call returns the first decision, whatever it asks for.

    Raises: UnknownRequest when the request has no answer to be accepted.
    """
    rows = db.rows(
        "SELECT until_ms, decided FROM results WHERE request_id = ?",
        (request_id,),
    )
    if not rows:
        raise UnknownRequest(request_id, "answer to be accepted")
    until_ms, decided = cast(tuple[int, int | None], rows[0])
    if decided is not None:
        [(detail,)] = db.rows("SELECT detail FROM entries WHERE sequence = ?", (decided,))
        return msgspec.json.decode(str(detail), type=Decided)
    if at_ms > until_ms:
        return _decide(db, request_id, "expire", at_ms)
    return _decide(db, request_id, "accept" if accepted else "decline", at_ms)


def accept_of(db: Database, tenant_id: str, request_id: str, accepted: bool, at_ms: int) -> Decided:
    """`accept`, of an answer to this tenant only."""
    found = db.rows("SELECT tenant_id FROM results WHERE request_id = ?", (request_id,))
    if found != [(tenant_id,)]:
        raise UnknownRequest(request_id, "answer to be accepted")
    return accept(db, request_id, accepted, at_ms)


def expire_results(db: Database, at_ms: int) -> int:
    """Let go of those whose time is over.  Returns how many those were."""
    found = overdue_results(db, at_ms)
    for request_id in found:
        _decide(db, request_id, "expire", at_ms)
    return len(found)


def overdue_results(db: Database, at_ms: int) -> list[str]:
    """Requests whose results are for `expire_results`; for a reader that looks whether any are."""
    rows = db.rows(
        "SELECT request_id FROM results WHERE decided IS NULL AND until_ms < ? ORDER BY sequence",
        (at_ms,),
    )
    return [str(request_id) for (request_id,) in rows]


class Offer(NamedTuple):
    """An answer that waits for its decision, and where its request is counted."""

    settled: int
    request_id: str
    tenant_id: str
    model: str
    currency: str
    micro: int
    key_id: str
    started_ms: int


def decide(offer: Offer, decision: Decision, granted_micro: int) -> Decided:
    """`granted_micro` is what the tenant has of granted money."""
    decided = Decided(settled=offer.settled, decision=decision, currency=offer.currency)
    if decision != "accept":
        return decided
    return msgspec.structs.replace(
        decided, micro=offer.micro, granted_micro=from_granted(offer.micro, granted_micro)
    )


def decision_entry(offer: Offer, decided: Decided, at_ms: int) -> Entry:
    return Entry(
        decided.decision,
        at_ms,
        offer.tenant_id,
        offer.request_id,
        decided,
        (
            *release(offer.tenant_id, offer.currency, offer.micro),
            *taking(
                offer.tenant_id,
                offer.model,
                offer.currency,
                decided.micro,
                decided.granted_micro,
            ),
        ),
    )


def decided_change(offer: Offer, decided: Decided) -> tuple[totals.Place, totals.Change]:
    place = totals.Place(offer.tenant_id, offer.key_id, offer.started_ms, offer.currency)
    return place, totals.Change(micro=decided.micro, held_micro=-offer.micro)


def _decide(db: Database, request_id: str, decision: Decision, at_ms: int) -> Decided:
    [row] = db.rows(
        "SELECT results.sequence, results.request_id, results.tenant_id, results.model, "
        "results.currency, results.micro, usage.key_id, usage.started_ms "
        "FROM results JOIN usage ON usage.sequence = results.sequence "
        "WHERE results.request_id = ?",
        (request_id,),
    )
    offer = Offer(*cast(tuple[int, str, str, str, str, int, str, int], row))
    account = granted(offer.tenant_id)
    money = account_balances(db, (account,), offer.currency)[account]
    decided = decide(offer, decision, money)
    sequence = append(db, decision_entry(offer, decided, at_ms))
    place, change = decided_change(offer, decided)
    totals.add(db, place, change)
    db.run(
        "UPDATE results SET decided = ?, accepted = ? WHERE request_id = ?",
        (sequence, int(decision == "accept"), request_id),
    )
    return decided
