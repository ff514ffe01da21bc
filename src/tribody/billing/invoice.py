"""One tenant's month: what was charged by which rule, and what became of its money.

Everything on an invoice comes out of the ledger's entries and adds up exactly: a rule's lines and
its rounding make its sum, the sums make the total, the total is what was taken from the granted and
the topped-up purse, and the balances before and after differ by that and the transfers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import msgspec

from tribody.billing.pricing import MILLION, Kind
from tribody.billing.records import CHARGED
from tribody.billing.reports import UsageRow, grouped
from tribody.billing.statements import Purses, RuleSum, Statement
from tribody.billing.verify import Head
from tribody.core.errors import StorageFailed

LineKind = Literal[Kind, "result"]
ORDER: tuple[Kind, ...] = ("hit", "miss", "output", "reasoning")


class InvoiceLine(NamedTuple):
    """One kind of tokens (or accepted results) under one rule; `amount` is exact, in micro-units.

    `price` is per million tokens, or per result.
    """

    kind: LineKind
    tokens: int
    free_tokens: int
    price: int
    amount: Fraction


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """A month in one currency.  `uncharged`: requests that ended by our failure, by outcome."""

    statement: Statement
    tenant_name: str
    month: str
    made_ms: int
    head: Head
    uncharged: Sequence[UsageRow]

    @property
    def number(self) -> str:
        """The same for the same month in the same state of the ledger."""
        of = self.statement
        return f"{of.tenant_id}-{self.month}-{of.currency}-{self.head.sequence}"

    @property
    def total_micro(self) -> int:
        return self.statement.charged_micro

    @property
    def granted_micro(self) -> int:
        """How much of the total granted money paid for."""
        return -sum(line.granted_micro for line in self.statement.lines if line.transfer is None)

    @property
    def topped_up_micro(self) -> int:
        return self.total_micro - self.granted_micro

    @property
    def is_final(self) -> bool:
        """Whether the month is over.  What was still open then will be on a later invoice."""
        return self.made_ms >= self.statement.to_ms

    def check(self, after: Purses) -> None:
        """`after`: what the ledger's postings have made of the purses by the end of the month.

        Raises: StorageFailed when the ledger contradicts itself.
        """
        of = self.statement
        paid = -sum(line.topped_up_micro for line in of.lines if line.transfer is None)
        if of.closing != after or paid != self.topped_up_micro:
            raise StorageFailed(
                f"{of.tenant_id}, {self.month}: charges of {self.total_micro} micro-{of.currency} "
                f"and payments lead to {of.closing}, the postings to {after}: the ledger "
                "contradicts itself; run tribody ledger verify"
            )


def lines_of(rule: RuleSum) -> list[InvoiceLine]:
    """Exact lines of one rule, in their usual order, accepted results last."""
    lines = []
    for kind in ORDER:
        of = rule.kinds.get(kind)
        if of is not None:
            amount = Fraction(of.numerator, rule.denominator)
            lines.append(InvoiceLine(kind, of.tokens, of.free_tokens, of.price, amount))
    if rule.results:
        price = rule.quote.result_micro
        amount = Fraction(rule.results_micro)
        lines.append(InvoiceLine("result", rule.results, 0, price, amount))
    return lines


def uncharged_of(usage: Sequence[UsageRow]) -> list[UsageRow]:
    """Of a tenant's usage by outcome: what was our failure, whatever its currency."""
    failed = [msgspec.structs.replace(row, currency="") for row in usage]
    return [row for row in grouped(failed, ("outcome",)) if row.outcome not in CHARGED]


def printable(amount: Fraction, places: int) -> Fraction:
    """Micro-units rounded half-even to so many places behind the point of the currency."""
    scale = Fraction(10**places, MILLION)
    return Fraction(round(amount * scale)) / scale
