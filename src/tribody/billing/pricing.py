"""What one request costs by the quote that it was admitted with.

Integers only.  Prices are micro-units of the currency per million tokens; a request's lines are
summed exactly and the sum is rounded once, half to even, to whole micro-units.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tribody.billing.money import show_micro
from tribody.core.metering import Counts

Kind = Literal["hit", "miss", "output", "reasoning"]

MILLION = 1_000_000  # tokens that a price is for
HOUR_MS = 3_600_000


class FreeUsed(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of each kind that were free already in one allowance's period, to one tenant."""

    hit: int = 0
    miss: int = 0
    output: int = 0
    reasoning: int = 0


NOTHING_USED = FreeUsed()


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of each kind that are free to each tenant in one period.

    Rules that name the same allowance share it: what is used is counted by tenant, `allowance_id`,
    `period` and kind.  `period` is a month of the tariff's time zone, such as 2026-11.
    """

    allowance_id: str
    period: str
    hit: int = 0
    miss: int = 0
    output: int = 0
    reasoning: int = 0


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """The prices of one request, frozen when it is admitted: one rule at one instant.

    `hit`, `miss`, `output`, `reasoning` and `cache_storage` are micro-units of `currency` per
    million tokens (of storage: million token-hours).  Without a price of its own (None) reasoning
    is output.  Token prices are multiplied by `numerator` / `denominator`, a batch's discount.
    `result_micro` is owed besides, in full, if the answer is accepted within `accept_seconds`.
    """

    tariff_digest: str
    rule_id: str
    title: str = ""
    currency: str
    at_ms: int
    hit: int
    miss: int
    output: int
    reasoning: int | None = None
    cache_storage: int = 0
    numerator: int = 1
    denominator: int = 1
    free: Allowance | None = None
    result_micro: int = 0
    accept_seconds: int = 0

    def summary(self) -> str:
        """The matched rule in one line, as an invoice prints it; the same for all its requests."""
        prices = [("hit", self.hit), ("miss", self.miss), ("output", self.output)]
        if self.reasoning is not None:
            prices.append(("reasoning", self.reasoning))
        shown = " / ".join(f"{kind} {show_micro(price, 0)}" for kind, price in prices)
        text = f"{self.title or self.rule_id}: {shown} {self.currency} per million tokens"
        if self.numerator != self.denominator:
            text += f", times {self.numerator}/{self.denominator}"
        if self.cache_storage:
            price = show_micro(self.cache_storage, 0)
            text += f", cache storage {price} {self.currency} per million token-hours"
        if self.free is not None:
            text += f", free allowance {self.free.allowance_id}"
        if self.result_micro:
            price = show_micro(self.result_micro, 0)
            text += f", {price} {self.currency} for an accepted result"
        return text


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of tokens: how many, how many of them were free, and what the others come to.

    The amount is `numerator` / the `denominator` of all lines, in micro-units, not rounded.
    """

    kind: Kind
    tokens: int
    free_tokens: int
    price: int
    numerator: int


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """A request's lines (kinds without tokens have none) and their sum, rounded once."""

    currency: str
    lines: tuple[Line, ...]
    denominator: int
    total_micro: int


def priced(quote: Quote, counts: Counts, free_used: FreeUsed = NOTHING_USED) -> Priced:
    """What the tokens of a request cost.  `free_used`: of the quote's allowance in its period.

    The price of a result is not in it: `quote.result_micro` is owed when the answer is accepted.
    """
    lines = tuple(
        _line(quote, kind, tokens, price, free_used)
        for kind, tokens, price in _amounts(quote, counts)
        if tokens
    )
    denominator = MILLION * quote.denominator
    total = rounded(sum(line.numerator for line in lines), denominator)
    return Priced(currency=quote.currency, lines=lines, denominator=denominator, total_micro=total)


def more_used(used: FreeUsed, price: Priced) -> FreeUsed:
    """Of an allowance, after a request."""
    counts = msgspec.structs.asdict(used)
    for line in price.lines:
        counts[line.kind] += line.free_tokens
    return FreeUsed(**counts)


def worst_case(quote: Quote, prompt_tokens: int, max_completion_tokens: int) -> int:
    """Micro-units that no outcome of the request exceeds, an accepted result included."""
    prompt = prompt_tokens * max(quote.hit, quote.miss)
    completion = max_completion_tokens * max(quote.output, quote.reasoning or 0)
    numerator = (prompt + completion) * quote.numerator
    return rounded(numerator, MILLION * quote.denominator) + quote.result_micro


def storage_micro(quote: Quote, tokens: int, held_ms: int) -> int:
    """What it costs to keep `tokens` of cache for `held_ms`; batches have no discount on it."""
    return rounded(tokens * held_ms * quote.cache_storage, MILLION * HOUR_MS)


def rounded(numerator: int, denominator: int) -> int:
    """The nearest whole number; of two that are equally near, the even one."""
    whole, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and whole % 2):
        whole += 1
    return whole


def _amounts(quote: Quote, counts: Counts) -> list[tuple[Kind, int, int]]:
    """(kind, tokens, price).  Raises: ValueError on counts that contradict themselves."""
    missed = counts.prompt_tokens - counts.cached_tokens
    spoken = counts.completion_tokens - counts.reasoning_tokens
    if min(missed, counts.cached_tokens, spoken, counts.reasoning_tokens) < 0:
        raise ValueError(f"impossible counts: {counts}")
    amounts: list[tuple[Kind, int, int]] = [
        ("hit", counts.cached_tokens, quote.hit),
        ("miss", missed, quote.miss),
    ]
    if quote.reasoning is None:
        amounts.append(("output", counts.completion_tokens, quote.output))
    else:
        amounts.append(("output", spoken, quote.output))
        amounts.append(("reasoning", counts.reasoning_tokens, quote.reasoning))
    return amounts


def _line(quote: Quote, kind: Kind, tokens: int, price: int, free_used: FreeUsed) -> Line:
    free_tokens = 0
    if quote.free is not None:
        left = getattr(quote.free, kind) - getattr(free_used, kind)
        free_tokens = min(tokens, max(left, 0))
    return Line(
        kind=kind,
        tokens=tokens,
        free_tokens=free_tokens,
        price=price,
        numerator=(tokens - free_tokens) * price * quote.numerator,
    )
