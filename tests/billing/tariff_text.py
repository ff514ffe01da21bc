"""Price lists for tests, a line or two a rule."""

from __future__ import annotations

from datetime import datetime

from tribody.billing.tariffs import Tariff

BANDS = """
[band.day]
hours = ["09:00-18:00"]
[band.night]
all_but = ["day"]
[band.weekend]
days = ["sat", "sun"]
"""
CALENDAR_BANDS = """
[band.work]
days = ["workdays"]
hours = ["09:00-18:00"]
[band.rest]
all_but = ["work"]
[band.holiday]
days = ["holidays"]
"""


def rule(rule_id: str, more: str = "", models: str = '["m"]', price: int = 1) -> str:
    """A rule; `more` are further keys, separated by semicolons."""
    keys = "\n".join(key.strip() for key in more.split(";"))
    return (
        f'[[rule]]\nid = "{rule_id}"\nmodels = {models}\nhit = {price}\nmiss = {price}\n'
        f"output = {price}\n{keys}\n"
    )


def tariff(*rules: str, head: str = "", bands: str = BANDS) -> Tariff:
    return Tariff.parse(f'currency = "CNY"\n{head}\n{"".join(rules)}{bands}')


def calendar_tariff(*rules: str, head: str = "") -> Tariff:
    return tariff(*rules, head=f'calendar = "china"\n{head}', bands=BANDS + CALENDAR_BANDS)


def at_ms(beijing: str) -> int:
    """`2026-11-23 10:00` of Beijing."""
    return round(datetime.fromisoformat(f"{beijing}+08:00").timestamp() * 1000)


def ask(
    of: Tariff,
    beijing: str = "2026-11-23 10:00",
    model: str = "m",
    tenant_id: str = "t",
    prompt_tokens: int = 0,
    is_batch: bool = False,
    currency: str | None = None,
):
    return of.find(
        model=model,
        tenant_id=tenant_id,
        at_ms=at_ms(beijing),
        prompt_tokens=prompt_tokens,
        is_batch=is_batch,
        currency=currency,
    )


def rule_id(of: Tariff, *request, **more) -> str:
    found: str = ask(of, *request, **more).rule_id
    return found
