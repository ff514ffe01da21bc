"""A price list: dated data from which one quote follows for any request at any instant.

The text is the list: its SHA-256 names it in quotes, and the ledger keeps it for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache, partial
from importlib import resources

import msgspec

from tribody.billing.calendar import DayKind
from tribody.billing.pricing import Quote
from tribody.billing.tariffs_check import Problem, problems
from tribody.billing.tariffs_file import EPOCH, PriceList, read
from tribody.billing.tariffs_rules import KindUnknown, Ranked, Rule, ranked, winners
from tribody.core.errors import NoPrice

MINUTE_MS = 60_000
RANKED_KEPT = 4096  # models x tenants; a few rules each


@dataclass(frozen=True)
class Tariff:
    """A price list that was read.  Equal texts are equal tariffs."""

    text: str
    prices: PriceList = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Tariff:
        """Raises: BadTariff, on anything that is wrong in itself; `problems` says the rest."""
        return cls(text, read(text))

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    @cached_property
    def _ranked(self) -> Callable[[str, str, str], Ranked]:
        """`ranked` by currency, model and tenant: most of what `find` would take."""
        return lru_cache(maxsize=RANKED_KEPT)(partial(ranked, self.prices.rules))

    def problems(self) -> list[Problem]:
        """What is wrong or doubtful about the rules together, errors first."""
        return problems(self.prices)

    def find(
        self,
        *,
        model: str,
        tenant_id: str,
        at_ms: int,
        prompt_tokens: int,
        is_batch: bool,
        currency: str | None = None,
    ) -> Quote:
        """The quote of a request.  `currency`: the tenant's account's; None = the list's own.

        Raises: NoPrice if no rule matches, if two do, or if it depends on a holiday calendar that
        does not know the day.
        """
        currency = currency or self.prices.currency
        local = (EPOCH + timedelta(milliseconds=at_ms)).astimezone(self.prices.zone)
        of_model = self._ranked(currency, model, tenant_id)
        minute = at_ms // MINUTE_MS
        rules = [
            (rank, rule)
            for rank, rule in of_model
            if rule.spans(minute) and rule.takes(prompt_tokens, is_batch)
        ]
        try:
            found = winners(
                rules, local.weekday(), self._kind(local), local.hour * 60 + local.minute
            )
        except KindUnknown as error:
            what = _request(model, currency, local)
            raise NoPrice(
                f"no price for {what}: it depends on holidays, and the calendar has no "
                f"{local.year}; extend the price list's calendar"
            ) from error
        if not found:
            known = "rules for it do not cover this" if of_model else "no rule names it"
            what = _request(model, currency, local)
            raise NoPrice(f"no price for {what}: {known}; extend the price list")
        if len(found) > 1:
            ids = " and ".join(rule.rule_id for rule in found[:2])
            what = _request(model, currency, local)
            raise NoPrice(f"no price for {what}: rules {ids} contradict each other")
        return self._quote(found[0], at_ms, local, is_batch)

    def _kind(self, local: datetime) -> DayKind | None:
        calendar = self.prices.calendar
        return "plain" if calendar is None else calendar.kind(local.date())

    def _quote(self, rule: Rule, at_ms: int, local: datetime, is_batch: bool) -> Quote:
        prices = rule.prices
        free = rule.free
        if free is not None:
            free = msgspec.structs.replace(free, period=f"{local:%Y-%m}")
        return Quote(
            tariff_digest=self.digest,
            rule_id=rule.rule_id,
            title=rule.title,
            currency=rule.currency,
            at_ms=at_ms,
            hit=prices.hit,
            miss=prices.miss,
            output=prices.output,
            reasoning=prices.reasoning,
            cache_storage=prices.cache_storage,
            numerator=prices.batch_numerator if is_batch else 1,
            denominator=prices.batch_denominator if is_batch else 1,
            free=free,
            result_micro=prices.result_micro,
            accept_seconds=prices.accept_seconds,
        )


def _request(model: str, currency: str, local: datetime) -> str:
    return f"model {model[:80]!r} in {currency} at {local.isoformat(timespec='seconds')}"


SHIPPED = ("deepseek", "deepseek-usd", "by-length", "free", "start")


def shipped(name: str) -> str:
    """The text of an example that comes with tribody, a key of SHIPPED."""
    file = resources.files("tribody.billing") / "price_lists" / f"{name}.toml"
    return file.read_text("utf-8")
