"""A tenant's statement: what was there, every payment, what was used by which rule, what is left.

Periods go by the instants of booking.  All of it is integers from the ledger's own entries, so a
statement's end is the next one's beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import msgspec

from tribody.billing.entries import granted, topped_up
from tribody.billing.periods import day
from tribody.billing.pricing import MILLION, Kind, Quote
from tribody.billing.records import Charge
from tribody.billing.results import Decided
from tribody.billing.settlement import read_charge
from tribody.billing.transfers import Transfer
from tribody.storage.database import Database

PAGE_ROWS = 1000  # entries read at a time: about a megabyte


class Purses(msgspec.Struct, frozen=True):
    """What is in both, in micro-units of one currency."""

    granted_micro: int = 0
    topped_up_micro: int = 0

    @property
    def total_micro(self) -> int:
        return self.granted_micro + self.topped_up_micro

    def plus(self, granted_micro: int, topped_up_micro: int) -> Purses:
        return Purses(self.granted_micro + granted_micro, self.topped_up_micro + topped_up_micro)


class StatementLine(msgspec.Struct, frozen=True, kw_only=True):
    """One payment, or what was used in one day until the next payment.

    `after` is what is in the purses then.
    """

    day: str
    transfer: Transfer | None = None  # None: usage
    requests: int = 0
    granted_micro: int  # change of
    topped_up_micro: int  # change of
    after: Purses


class KindSum(msgspec.Struct, frozen=True):
    """Tokens of one kind by one rule; `numerator` / the rule's `denominator` is what they cost."""

    tokens: int = 0
    free_tokens: int = 0
    price: int = 0
    numerator: int = 0


class RuleSum(msgspec.Struct, kw_only=True):
    """All that one model used by one rule.  `quote.summary()` prints the rule.

    Each request was rounded by itself: `micro`, the sum of what was charged, may be off the sum of
    `kinds` by half a micro-unit a request.
    """

    model: str
    quote: Quote
    is_batch: bool
    denominator: int
    requests: int
    kinds: dict[Kind, KindSum]
    micro: int
    results: int = 0
    results_micro: int = 0


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant, one currency, [from_ms, to_ms).

    `uncharged` requests ended by our failure.  `open_requests` were admitted before the end and
    are not settled yet: they will be in a later statement.
    """

    tenant_id: str
    currency: str
    from_ms: int
    to_ms: int
    opening: Purses
    lines: list[StatementLine]
    rules: list[RuleSum]
    closing: Purses
    uncharged: int
    open_requests: int

    @property
    def charged_micro(self) -> int:
        return sum(rule.micro + rule.results_micro for rule in self.rules)


def statement(db: Database, tenant_id: str, currency: str, from_ms: int, to_ms: int) -> Statement:
    """Reads every entry of the period once."""
    opening = purses_at(db, tenant_id, currency, from_ms)
    lines = _Lines(opening)
    rules = _Rules()
    for booked in _entries(db, tenant_id, from_ms, to_ms):
        if booked.charge is not None and booked.charge.currency == currency:
            charge = booked.charge
            rules.add(charge, booked.model, is_batch=booked.is_batch)
            if charge.priced is not None:
                lines.use(booked.at_ms, charge.micro, charge.granted_micro)
        elif booked.decided is not None and booked.decided.currency == currency:
            decided = booked.decided
            rules.accept(db, decided)
            lines.use(booked.at_ms, decided.micro, decided.granted_micro, requests=0)
        elif booked.transfer is not None and booked.transfer.currency == currency:
            lines.transfer(booked.at_ms, booked.transfer)
    [(open_requests,)] = db.rows(
        "SELECT count(*) FROM requests JOIN entries ON entries.sequence = requests.opened "
        "WHERE requests.closed IS NULL AND entries.tenant_id = ? AND entries.at_ms < ?",
        (tenant_id, to_ms),
    )
    return Statement(
        tenant_id=tenant_id,
        currency=currency,
        from_ms=from_ms,
        to_ms=to_ms,
        opening=opening,
        lines=lines.finish(),
        rules=rules.sums(),
        closing=lines.now,
        uncharged=rules.uncharged,
        open_requests=cast(int, open_requests),
    )


def purses_at(db: Database, tenant_id: str, currency: str, at_ms: int) -> Purses:
    """What was in both before everything that was booked at `at_ms` or later."""
    accounts = (granted(tenant_id), topped_up(tenant_id))
    rows = db.rows(
        "SELECT postings.account, CAST(sum(postings.micro) AS BIGINT) FROM entries "
        "JOIN postings ON postings.sequence = entries.sequence "
        "WHERE entries.tenant_id = ? AND entries.at_ms < ? AND postings.currency = ? "
        "AND postings.account IN (?, ?) GROUP BY postings.account",
        (tenant_id, at_ms, currency, *accounts),
    )
    sums = dict(cast(list[tuple[str, int]], rows))
    return Purses(sums.get(accounts[0], 0), sums.get(accounts[1], 0))


class _Booked(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that money may have moved by: one of the three."""

    at_ms: int
    charge: Charge | None = None
    decided: Decided | None = None
    transfer: Transfer | None = None
    model: str = ""
    is_batch: bool = False


def _entries(db: Database, tenant_id: str, from_ms: int, to_ms: int) -> Iterator[_Booked]:
    """In the order of the ledger."""
    last = 0
    while True:
        rows = db.rows(
            "SELECT entries.sequence, entries.kind, entries.at_ms, entries.detail, usage.model, "
            "usage.is_batch FROM entries LEFT JOIN usage ON usage.sequence = entries.sequence "
            "WHERE entries.tenant_id = ? AND entries.at_ms >= ? AND entries.at_ms < ? "
            "AND entries.sequence > ? AND entries.kind IN "
            "('settle', 'accept', 'top_up', 'grant', 'refund', 'adjust') "
            f"ORDER BY entries.sequence LIMIT {PAGE_ROWS}",
            (tenant_id, from_ms, to_ms, last),
        )
        for row in rows:
            _, kind, at_ms, detail, model, is_batch = cast(tuple[int, str, int, str, str, int], row)
            if kind == "settle":
                charge = read_charge(detail)
                yield _Booked(at_ms=at_ms, charge=charge, model=model, is_batch=bool(is_batch))
            elif kind == "accept":
                yield _Booked(at_ms=at_ms, decided=msgspec.json.decode(detail, type=Decided))
            else:
                yield _Booked(at_ms=at_ms, transfer=msgspec.json.decode(detail, type=Transfer))
        if len(rows) < PAGE_ROWS:
            return
        last = cast(int, rows[-1][0])


class _Lines:
    """Lines as they come, with what is in the purses after each."""

    def __init__(self, opening: Purses) -> None:
        self.now = opening
        self._lines: list[StatementLine] = []
        self._used: StatementLine | None = None  # today's, still growing

    def use(self, at_ms: int, micro: int, granted_micro: int, *, requests: int = 1) -> None:
        today = day(at_ms)
        if self._used is None or self._used.day != today:
            self._end_usage()
            self._used = StatementLine(
                day=today, granted_micro=0, topped_up_micro=0, after=self.now
            )
        self.now = self.now.plus(-granted_micro, granted_micro - micro)
        self._used = msgspec.structs.replace(
            self._used,
            requests=self._used.requests + requests,
            granted_micro=self._used.granted_micro - granted_micro,
            topped_up_micro=self._used.topped_up_micro + granted_micro - micro,
            after=self.now,
        )

    def transfer(self, at_ms: int, transfer: Transfer) -> None:
        self._end_usage()
        is_grant = transfer.purse == "granted"
        more = (transfer.amount_micro, 0) if is_grant else (0, transfer.amount_micro)
        self.now = self.now.plus(*more)
        self._lines.append(
            StatementLine(
                day=day(at_ms),
                transfer=transfer,
                granted_micro=more[0],
                topped_up_micro=more[1],
                after=self.now,
            )
        )

    def finish(self) -> list[StatementLine]:
        self._end_usage()
        return self._lines

    def _end_usage(self) -> None:
        if self._used is not None:
            self._lines.append(self._used)
            self._used = None


class _Rules:
    """Sums by model, rule and whether it was a batch."""

    def __init__(self) -> None:
        self.uncharged = 0
        self._sums: dict[tuple[str, str, str, bool], RuleSum] = {}

    def add(self, charge: Charge, model: str, *, is_batch: bool) -> None:
        price = charge.priced
        if charge.quote is None or price is None:
            self.uncharged += 1
            return
        sums = self._of(charge.quote, model, is_batch=is_batch)
        sums.requests += 1
        sums.micro += price.total_micro
        for line in price.lines:
            before = sums.kinds.get(line.kind, KindSum())
            sums.kinds[line.kind] = KindSum(
                before.tokens + line.tokens,
                before.free_tokens + line.free_tokens,
                line.price,
                before.numerator + line.numerator,
            )

    def accept(self, db: Database, decided: Decided) -> None:
        [row] = db.rows(
            "SELECT entries.detail, usage.model, usage.is_batch FROM entries "
            "JOIN usage ON usage.sequence = entries.sequence WHERE entries.sequence = ?",
            (decided.settled,),
        )
        detail, model, is_batch = cast(tuple[str, str, int], row)
        quote = read_charge(detail).quote
        assert quote is not None
        sums = self._of(quote, model, is_batch=bool(is_batch))
        sums.results += 1
        sums.results_micro += decided.micro

    def sums(self) -> list[RuleSum]:
        """By model, then in the order of their first requests."""
        return sorted(self._sums.values(), key=lambda rule: rule.model)

    def _of(self, quote: Quote, model: str, *, is_batch: bool) -> RuleSum:
        name = (model, quote.tariff_digest, quote.rule_id, is_batch)
        if name not in self._sums:
            self._sums[name] = RuleSum(
                model=model,
                quote=quote,
                is_batch=is_batch,
                denominator=MILLION * quote.denominator,
                requests=0,
                kinds={},
                micro=0,
            )
        return self._sums[name]
