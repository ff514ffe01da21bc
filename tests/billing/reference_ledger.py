"""A ledger in plain Python: every question is answered by looking at everything that happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

PAID = ("finished", "disconnect", "timeout")


def local(at_ms: int) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return at.astimezone(ZoneInfo("Asia/Shanghai")).isoformat()


class Reference:
    def __init__(self) -> None:
        self.moves: dict[Any, Any] = {}  # (tenant, key) -> what, amount, currency, purse
        self.requests: dict[str, dict[str, Any]] = {}  # in the order of their admission
        self.spent: list[Any] = []  # (tenant, currency, from granted, from topped up)

    def purse(self, tenant: str, currency: str, which: str) -> int:
        moves = [m for (who, _), m in self.moves.items() if who == tenant]
        paid_in = sum(m[1] for m in moves if m[2:] == (currency, which))
        taken = sum(
            s[2 if which == "granted" else 3] for s in self.spent if s[:2] == (tenant, currency)
        )
        return paid_in - taken

    def held(self, tenant: str, currency: str) -> int:
        mine = [
            q for q in self.requests.values() if (q["tenant"], q["currency"]) == (tenant, currency)
        ]
        return sum(q["held"] for q in mine)

    def available(self, tenant: str, currency: str) -> int:
        purses = [self.purse(tenant, currency, which) for which in ("granted", "topped_up")]
        return sum(purses) - self.held(tenant, currency)

    def move(self, tenant: str, key: str, what: str, amount: int, currency: str, purse: str) -> str:
        if (tenant, key) in self.moves:
            same = self.moves[tenant, key] == (what, amount, currency, purse)
            return "done" if same else "IdempotencyConflict"
        there = self.purse(tenant, currency, purse)
        if what == "refund" and -amount > min(there, self.available(tenant, currency)):
            return "NoBalance"
        if purse == "granted" and there + amount < 0:
            return "NoBalance"
        self.moves[tenant, key] = what, amount, currency, purse
        return "done"

    def reserve(self, name: str, **r: Any) -> str:
        same = [
            q
            for q in self.requests.values()
            if q["tenant"] == r["tenant"] and q["key"] == r["key"] and r["key"]
        ]
        if same and same[-1]["body"] != r["body"]:
            return "IdempotencyConflict"
        if name in self.requests or (same and same[-1]["outcome"] in (None, *PAID)):
            return "AlreadyReserved"
        for scope in (("tenant",), ("tenant", "api_key")):
            near = [q for q in self.requests.values() if all(q[s] == r[s] for s in scope)]
            for unit in ("tokens", "micro"):
                for length in (10, 7):  # of a day's name, of a month's
                    at = local(r["at_ms"])[:length]
                    used = sum(
                        q[unit] + q["held" if unit == "micro" else "held_tokens"]
                        for q in near
                        if local(q["at_ms"])[:length] == at
                        and (unit == "tokens" or q["currency"] == r["currency"])
                    )
                    cap = r["caps"].get((scope[-1], unit, length))
                    if cap and used + r["worst" if unit == "micro" else "worst_tokens"] > cap:
                        return "CapReached"
        if r["worst"] > 0 and r["worst"] > self.available(r["tenant"], r["currency"]) + r["credit"]:
            return "NoBalance"
        self.requests[name] = r | {"outcome": None, "held": r["worst"], "tokens": 0, "micro": 0}
        self.requests[name] |= {"held_tokens": r["worst_tokens"], "result": None, "charge": None}
        return "done"

    def record(
        self, name: str, tenant: str, api_key: str, at_ms: int, counts: Any, outcome: str
    ) -> None:
        empty = {"currency": "", "held": 0, "held_tokens": 0, "micro": 0, "key": None, "node": None}
        tokens = sum(counts[::2]) if outcome in PAID else 0
        of = {"tenant": tenant, "api_key": api_key, "at_ms": at_ms, "outcome": outcome}
        self.requests.setdefault(name, empty | of | {"tokens": tokens, "result": None})

    def settle(self, name: str, counts: Any, outcome: str, ended_ms: int) -> Any:
        q = self.requests.get(name)
        if q is None or q["node"] is None:
            return "UnknownRequest"
        if q["outcome"] is None:
            q |= {"outcome": outcome, "held": 0, "held_tokens": 0, "charge": 0}
            if outcome in PAID:
                q["tokens"] = sum(counts[::2])
                q["charge"] = self.price(q, counts)
                self.take(q, q["charge"])
            if outcome == "finished" and q["result_price"]:
                q |= {
                    "held": q["result_price"],
                    "result": "open",
                    "until": ended_ms + q["accept_ms"],
                }
        return q["charge"]

    def price(self, q: dict[str, Any], counts: Any) -> int:
        prompt, cached, completion = counts
        kinds = {"hit": cached, "miss": prompt - cached, "output": completion}
        free = {kind: max(0, q["free"].get(kind, 0) - self.used_free(q, kind)) for kind in kinds}
        q["used_free"] = {kind: min(kinds[kind], free[kind]) for kind in kinds}
        paid = sum((kinds[kind] - q["used_free"][kind]) * q["prices"][kind] for kind in kinds)
        return round(Fraction(paid, 1_000_000))

    def used_free(self, q: dict[str, Any], kind: str) -> int:
        month = local(q["at_ms"])[:7]
        mine = [
            o for o in self.requests.values() if o["tenant"] == q["tenant"] and "used_free" in o
        ]
        return sum(
            o["used_free"][kind] for o in mine if local(o["at_ms"])[:7] == month and o["free"]
        )

    def take(self, q: dict[str, Any], micro: int) -> None:
        granted = min(micro, max(0, self.purse(q["tenant"], q["currency"], "granted")))
        self.spent.append((q["tenant"], q["currency"], granted, micro - granted))
        q["micro"] += micro

    def accept(self, name: str, accepted: bool, at_ms: int) -> str:
        q = self.requests.get(name, {"result": None})
        if q["result"] is None:
            return "UnknownRequest"
        if q["result"] == "open":
            q["result"] = "expire" if at_ms > q["until"] else "accept" if accepted else "decline"
            q["held"] = 0
            if q["result"] == "accept":
                self.take(q, q["result_price"])
        return str(q["result"])
