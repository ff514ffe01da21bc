"""One tenant's month: what was charged by which rule, and what became of its money.

Everything on an invoice comes out of the ledger's entries and adds up exactly: a rule's lines and
its rounding make its sum, the sums make the total, the total is what was taken from the granted and
the topped-up purse, and the balances before and after differ by that and the transfers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal

import msgspec

from tribody.billing.pricing import MILLION, Kind
from tribody.billing.queries import Accepted, Head, Settled
from tribody.billing.records import Charge
from tribody.billing.transfers import Transfer
from tribody.core.errors import StorageFailed
from tribody.core.metering import Outcome

LineKind = Literal[Kind, "result"]
ORDER: tuple[LineKind, ...] = ("hit", "miss", "output", "reasoning", "result")


class InvoiceLine(msgspec.Struct, kw_only=True):
    """One kind of tokens (or accepted results) under one rule; `amount` is exact, in micro-units.

    `price` is per million tokens, or per result.
    """

    kind: LineKind
    price: int
    tokens: int = 0
    free_tokens: int = 0
    amount: Fraction = Fraction(0)


class RuleSum(msgspec.Struct, kw_only=True):
    """What one rule of one price list charged for one model.

    `total_micro` is the sum of the requests' charges, each rounded once to whole micro-units;
    `rounding` is what that makes against the exact lines.
    """

    model: str
    tariff_digest: str
    rule_id: str
    summary: str
    discount: Fraction
    requests: int = 0
    lines: dict[LineKind, InvoiceLine] = {}
    total_micro: int = 0
    granted_micro: int = 0

    @property
    def rounding(self) -> Fraction:
        return self.total_micro - sum((line.amount for line in self.lines.values()), Fraction(0))


class Uncharged(msgspec.Struct, kw_only=True):
    """Requests that ended by our failure, or that nothing was to be paid for."""

    outcome: Outcome
    requests: int = 0
    tokens: int = 0


class Purses(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's money at one instant, in one currency."""

    granted_micro: int = 0
    topped_up_micro: int = 0

    @property
    def total_micro(self) -> int:
        return self.granted_micro + self.topped_up_micro


class Invoice(msgspec.Struct, kw_only=True):
    """A month in one currency.  `num_unfinished`: requests and results that may still add to it."""

    tenant_id: str
    tenant_name: str
    month: str
    currency: str
    first_ms: int
    last_ms: int
    made_ms: int
    head: Head
    before: Purses
    after: Purses
    rules: list[RuleSum]
    uncharged: list[Uncharged]
    transfers: list[Transfer]
    num_unfinished: int

    @property
    def number(self) -> str:
        """The same for the same month in the same state of the ledger."""
        return f"{self.tenant_id}-{self.month}-{self.currency}-{self.head.sequence}"

    @property
    def total_micro(self) -> int:
        return sum(rule.total_micro for rule in self.rules)

    @property
    def granted_micro(self) -> int:
        return sum(rule.granted_micro for rule in self.rules)

    @property
    def is_final(self) -> bool:
        return self.num_unfinished == 0 and self.made_ms >= self.last_ms

    def check(self) -> None:
        """Raises: StorageFailed when the ledger contradicts itself."""
        for purse, charged in (
            ("granted", self.granted_micro),
            ("topped_up", self.total_micro - self.granted_micro),
        ):
            moved = sum(t.amount_micro for t in self.transfers if t.purse == purse)
            before = getattr(self.before, f"{purse}_micro")
            after = getattr(self.after, f"{purse}_micro")
            if before + moved - charged != after:
                raise StorageFailed(
                    f"{self.tenant_id}, {self.month}: {before} + {moved} - {charged} micro-"
                    f"{self.currency} of {purse} money should be {after}; the ledger contradicts "
                    "itself: tribody ledger verify"
                )


class RuleSums:
    """Adds charges up by model and rule, one after the other, for each currency."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[tuple[str, ...], RuleSum]] = {}
        self._uncharged: dict[str, dict[Outcome, Uncharged]] = {}

    def add(self, settled: Settled) -> None:
        charge = settled.charge
        if charge.quote is None or charge.priced is None:
            outcome = self._uncharged.setdefault(charge.currency, {}).setdefault(
                charge.outcome, Uncharged(outcome=charge.outcome)
            )
            outcome.requests += 1
            outcome.tokens += charge.counts.prompt_tokens + charge.counts.completion_tokens
            return
        rule = self._rule(settled.model, charge)
        rule.requests += 1
        rule.total_micro += charge.micro
        rule.granted_micro += charge.granted_micro
        for line in charge.priced.lines:
            kept = rule.lines.setdefault(line.kind, InvoiceLine(kind=line.kind, price=line.price))
            kept.tokens += line.tokens
            kept.free_tokens += line.free_tokens
            kept.amount += Fraction(line.numerator, charge.priced.denominator)

    def add_result(self, result: Accepted) -> None:
        rule = self._rule(result.model, result.charge)
        price = result.charge.result_micro
        kept = rule.lines.setdefault("result", InvoiceLine(kind="result", price=price))
        kept.tokens += 1
        kept.amount += result.decided.micro
        rule.total_micro += result.decided.micro
        rule.granted_micro += result.decided.granted_micro

    def _rule(self, model: str, charge: Charge) -> RuleSum:
        quote = charge.quote
        assert quote is not None
        summary = quote.summary()
        key = (model, quote.tariff_digest, quote.rule_id, summary)
        return self._sums.setdefault(quote.currency, {}).setdefault(
            key,
            RuleSum(
                model=model,
                tariff_digest=quote.tariff_digest,
                rule_id=quote.rule_id,
                summary=summary,
                discount=Fraction(quote.numerator, quote.denominator),
            ),
        )

    def currencies(self) -> set[str]:
        """Those that anything was charged in, or would have been."""
        return {currency for currency in (*self._sums, *self._uncharged) if currency}

    def rules(self, currency: str) -> list[RuleSum]:
        """By model, then rule; each with its lines in their usual order."""
        found = [rule for _key, rule in sorted(self._sums.get(currency, {}).items())]
        for rule in found:
            rule.lines = {kind: rule.lines[kind] for kind in ORDER if kind in rule.lines}
        return found

    def uncharged(self, currency: str) -> list[Uncharged]:
        return [one for _name, one in sorted(self._uncharged.get(currency, {}).items())]


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, and by whom it is paid."""

    tenant_id: str
    tenant_name: str
    currency: str  # the tenant's; an invoice in it is made even of an empty month
    month: str
    first_ms: int
    last_ms: int
    made_ms: int
    head: Head
    num_unfinished: int


def invoices(
    month: Month,
    charges: Iterable[Settled],
    results: Iterable[Accepted],
    transfers: Iterable[Transfer],
    purses: tuple[Mapping[str, Mapping[str, int]], Mapping[str, Mapping[str, int]]],
) -> list[Invoice]:
    """One of each currency that something happened in, the tenant's own first.

    `purses`: before and after the month, by currency and purse.  Raises: StorageFailed.
    """
    sums = RuleSums()
    for charge in charges:
        sums.add(charge)
    for result in results:
        sums.add_result(result)
    moved = list(transfers)
    others = sums.currencies() | {one.currency for one in moved}
    names = [month.currency, *sorted(others - {month.currency})]
    found = []
    for currency in names:
        before, after = (
            Purses(granted_micro=of.get("granted", 0), topped_up_micro=of.get("topped_up", 0))
            for of in (book.get(currency, {}) for book in purses)
        )
        invoice = Invoice(
            tenant_id=month.tenant_id,
            tenant_name=month.tenant_name,
            month=month.month,
            currency=currency,
            first_ms=month.first_ms,
            last_ms=month.last_ms,
            made_ms=month.made_ms,
            head=month.head,
            before=before,
            after=after,
            rules=sums.rules(currency),
            uncharged=sums.uncharged(currency),
            transfers=[one for one in moved if one.currency == currency],
            num_unfinished=month.num_unfinished,
        )
        invoice.check()
        found.append(invoice)
    return found


def printable(amount: Fraction | int, places: int) -> Fraction:
    """Micro-units rounded half-even to so many places behind the point of the currency."""
    scale = Fraction(10**places, MILLION)
    return Fraction(round(amount * scale)) / scale
