"""An upstream's bill against our own usage records, for each day (or month) and model.

Compared is what the bill states: requests, prompt tokens (hit and miss), completion tokens; money
where the caller says what it should have been.  Nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal

import msgspec

from tribody.billing.reconcile_bill import Bill, BillRow, Count
from tribody.billing.reports import UsageRow, grouped

Status = Literal["match", "differs", "missing here", "missing there"]
ORDER: tuple[Status, ...] = ("match", "differs", "missing here", "missing there")


class Pair(msgspec.Struct, frozen=True):
    """One figure of both books."""

    theirs: int
    ours: int
    within: bool  # the tolerance


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One period and model.  Money is whole micro-units by currency, rounded half-even for show;
    `expected_micro` is what the bill should say, `charged_micro` what our tenants were charged."""

    period: str
    model: str
    status: Status
    counts: dict[Count, Pair]
    billed_micro: dict[str, int]
    expected_micro: dict[str, int]
    charged_micro: dict[str, int]
    notes: list[str]


Expected = Mapping[tuple[str, str], Mapping[str, Fraction]]  # (period, model) -> currency -> micro


def compare(
    bill: Bill,
    usage: Iterable[UsageRow],
    expected: Expected | None = None,
    tolerance: Fraction = Fraction(0),
) -> list[Finding]:
    """Every period and model that either book knows, by period.

    `usage` is grouped by the bill's own days (`day`) or months (`month`) and by model; `expected`
    holds what the bill's money should be, each request rounded to whole micro-units (None: money is
    shown and not judged).  `tolerance` is a share of the larger figure.
    """
    ours: dict[tuple[str, str], list[UsageRow]] = {}
    for row in usage:
        ours.setdefault((row.month if bill.zone.by_month else row.day, row.model), []).append(row)
    return [
        _finding(
            bill.rows.get(key) or BillRow(period=key[0], model=key[1]),
            ours.get(key, []),
            None if expected is None else expected.get(key, {}),
            tolerance,
            key in bill.rows,
        )
        for key in sorted(bill.rows.keys() | ours.keys())
    ]


def _finding(
    billed: BillRow,
    usage: list[UsageRow],
    expected: Mapping[str, Fraction] | None,
    tolerance: Fraction,
    is_billed: bool,
) -> Finding:
    total = _total(usage)
    counts = {
        count: Pair(theirs, total[count], within(theirs, total[count], tolerance))
        for count, theirs in billed.counts.items()
    }
    if not is_billed:
        counts = {count: Pair(0, number, False) for count, number in total.items() if number}
    notes, money_is_right = [], True
    if expected is not None and is_billed and usage:
        for currency in sorted(billed.money.keys() | expected.keys()):
            theirs, right = (book.get(currency, Fraction()) for book in (billed.money, expected))
            rounding = 1 + Fraction(sum(row.requests for row in usage), 2)
            if abs(theirs - right) > rounding and not within(theirs, right, tolerance):
                money_is_right = False
    for currency, stated in billed.stated.items():
        priced = billed.priced.get(currency)
        if priced is not None and not within(stated, priced, tolerance):
            notes.append(
                f"the bill's own prices and amounts make {_micro(priced)} micro-{currency}, "
                f"it states {_micro(stated)}"
            )
    status: Status
    if not is_billed:
        status = "missing there"
    elif not usage:
        status = "missing here"
    elif all(pair.within for pair in counts.values()) and money_is_right:
        status = "match"
    else:
        status = "differs"
    return Finding(
        period=billed.period,
        model=billed.model,
        status=status,
        counts=counts,
        billed_micro={name: _micro(money) for name, money in billed.money.items()},
        expected_micro={name: _micro(money) for name, money in (expected or {}).items()},
        charged_micro={row.currency: row.charged_micro for row in usage if row.currency},
        notes=notes,
    )


def _total(usage: list[UsageRow]) -> dict[Count, int]:
    """Of all currencies: tokens are tokens."""
    rows = grouped(usage, ())
    return {
        "requests": sum(row.requests for row in rows),
        "hit": sum(row.cached_tokens for row in rows),
        "miss": sum(row.miss_tokens for row in rows),
        "prompt": sum(row.prompt_tokens for row in rows),
        "completion": sum(row.completion_tokens for row in rows),
    }


def within(theirs: Fraction | int, ours: Fraction | int, tolerance: Fraction) -> bool:
    """Whether two figures differ by no more than that share of the larger one."""
    first, second = Fraction(theirs), Fraction(ours)
    return abs(first - second) <= tolerance * max(abs(first), abs(second))


def _micro(money: Fraction) -> int:
    return round(money)  # half-even


def numbers_of(findings: Iterable[Finding]) -> dict[Status, int]:
    """How many of each status."""
    found = [finding.status for finding in findings]
    return {status: found.count(status) for status in ORDER}
