"""Answers that are paid for when they are accepted.

What such an answer costs stays held after its request was settled, until the caller (or whoever
checks it) accepts or declines, or the time for that is over.  The first decision stands.
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from tribody.billing import totals
from tribody.billing.entries import Entry, append
from tribody.billing.records import UnknownRequest
from tribody.billing.settlement import release, take, taking
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


def expire_results(db: Database, at_ms: int) -> int:
    """Let go of those whose time is over.  Returns how many those were."""
    rows = db.rows(
        "SELECT request_id FROM results WHERE decided IS NULL AND until_ms < ? ORDER BY sequence",
        (at_ms,),
    )
    for (request_id,) in rows:
        _decide(db, str(request_id), "expire", at_ms)
    return len(rows)


def _decide(db: Database, request_id: str, decision: Decision, at_ms: int) -> Decided:
    [row] = db.rows(
        "SELECT results.sequence, results.tenant_id, results.model, results.currency, "
        "results.micro, usage.key_id, usage.started_ms "
        "FROM results JOIN usage ON usage.sequence = results.sequence "
        "WHERE results.request_id = ?",
        (request_id,),
    )
    settled, tenant_id, model, currency, micro, key_id, started_ms = cast(
        tuple[int, str, str, str, int, str, int], row
    )
    postings = release(tenant_id, currency, micro)
    decided = Decided(settled=settled, decision=decision, currency=currency)
    if decision == "accept":
        from_grants = take(db, tenant_id, currency, micro)
        postings += taking(tenant_id, model, currency, micro, from_grants)
        decided = msgspec.structs.replace(decided, micro=micro, granted_micro=from_grants)
    sequence = append(db, Entry(decision, at_ms, tenant_id, request_id, decided, postings))
    totals.add(
        db,
        totals.Place(tenant_id, key_id, started_ms, currency),
        totals.Change(micro=decided.micro, held_micro=-micro),
    )
    db.run(
        "UPDATE results SET decided = ?, accepted = ? WHERE request_id = ?",
        (sequence, int(decision == "accept"), request_id),
    )
    return decided
