"""The price lists that ship: sound, and what DeepSeek's history says at its turning points."""

from __future__ import annotations

from datetime import datetime

import pytest

from tribody.billing.tariffs import SHIPPED, Tariff, shipped
from tribody.core.errors import NoPrice

DEEPSEEK = Tariff.parse(shipped("deepseek"))


def at_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def find(model: str, beijing: str, tariff: Tariff = DEEPSEEK, prompt_tokens: int = 1):
    return tariff.find(
        model=model,
        tenant_id="anyone",
        at_ms=at_ms(f"{beijing}+08:00"),
        prompt_tokens=prompt_tokens,
        is_batch=False,
    )


def prices(*request, **more) -> tuple[float, float, float]:
    quote = find(*request, **more)
    return quote.hit / 1e6, quote.miss / 1e6, quote.output / 1e6


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_list_has_an_error(name) -> None:
    assert [p.text for p in Tariff.parse(shipped(name)).problems() if p.severity == "error"] == []


def test_what_the_shipped_history_warns_of() -> None:
    assert [problem.text for problem in DEEPSEEK.problems()] == [
        "the calendar does not know Fri 2027-01-01 09:00: prices that depend on holidays are "
        "refused then, not guessed, those of rules flash-peak, flash-off-peak, v4-pro-peak, "
        "v4-pro-off-peak",
        "no price from 2026-04-24 00:00 on: deepseek-chat (CNY), deepseek-reasoner (CNY)",
    ]


@pytest.mark.parametrize(
    ("model", "beijing", "expected"),
    [
        ("deepseek-chat", "2024-12-26T00:00", (0.1, 1, 2)),
        ("deepseek-chat", "2025-02-08T23:59:59.999", (0.1, 1, 2)),
        ("deepseek-chat", "2025-02-09T00:00", (0.5, 2, 8)),
        ("deepseek-chat", "2025-02-26T00:29:59", (0.5, 2, 8)),
        ("deepseek-chat", "2025-02-26T00:30", (0.25, 1, 4)),
        ("deepseek-chat", "2025-02-26T08:29:59", (0.25, 1, 4)),
        ("deepseek-chat", "2025-02-26T08:30", (0.5, 2, 8)),
        ("deepseek-reasoner", "2025-01-20T12:00", (1, 4, 16)),
        ("deepseek-reasoner", "2025-02-25T03:00", (1, 4, 16)),
        ("deepseek-reasoner", "2025-02-27T03:00", (0.25, 1, 4)),
        ("deepseek-reasoner", "2025-09-05T23:59:59", (1, 4, 16)),
        ("deepseek-reasoner", "2025-09-06T00:00", (0.5, 4, 12)),
        ("deepseek-chat", "2025-09-06T03:00", (0.5, 4, 12)),
        ("deepseek-chat", "2025-09-28T23:59:59", (0.5, 4, 12)),
        ("deepseek-chat", "2025-09-29T00:00", (0.2, 2, 3)),
        ("deepseek-v4-flash", "2026-08-16T10:00", (0.02, 1, 2)),
        ("deepseek-v4-pro", "2026-08-16T10:00", (0.025, 3, 6)),
        ("deepseek-v4-flash", "2026-08-17T09:00", (0.1, 3, 9)),
        ("deepseek-v4-pro", "2026-08-17T12:00", (0.15, 4.5, 13.5)),
        ("deepseek-v4-pro", "2026-08-22T10:00", (0.3, 9, 27)),  # the last Saturday with a peak
        ("deepseek-v4-pro", "2026-08-29T10:00", (0.15, 4.5, 13.5)),
        ("deepseek-v4-flash", "2026-09-10T11:59:59", (0.1, 3, 9)),
        ("deepseek-v4-flash", "2026-09-10T12:00", (0.02, 1, 4)),
        ("deepseek-flash", "2026-09-10T14:00", (0.04, 2, 8)),
        ("deepseek-flash", "2026-09-20T10:00", (0.02, 1, 4)),  # a make-up Sunday
        ("deepseek-flash", "2026-09-24T10:00", (0.04, 2, 8)),
        ("deepseek-flash", "2026-09-25T10:00", (0.02, 1, 4)),  # a holiday
        ("deepseek-flash", "2026-11-23T08:59:59", (0.02, 1, 4)),
        ("deepseek-flash", "2026-11-23T09:00", (0.04, 2, 8)),
        ("deepseek-v4-pro", "2026-11-23T09:00", (0.3, 9, 27)),
        ("deepseek-v4-pro", "2026-11-23T12:00", (0.15, 4.5, 13.5)),
        ("deepseek-v4-pro", "2026-11-23T17:59:59", (0.3, 9, 27)),
        ("deepseek-v4-pro", "2026-11-23T18:00", (0.15, 4.5, 13.5)),
        ("deepseek-v4-pro", "2027-01-04T12:00", (0.15, 4.5, 13.5)),  # off-peak on any day
    ],
)
def test_deepseeks_history(model, beijing, expected) -> None:
    assert prices(model, beijing) == expected


@pytest.mark.parametrize(
    ("model", "beijing", "reason"),
    [
        ("deepseek-chat", "2024-12-25T23:59:59", "rules for it do not cover this"),
        ("deepseek-chat", "2026-04-24T00:00", "rules for it do not cover this"),
        ("deepseek-v4-pro", "2027-01-04T10:00", "the calendar has no 2027"),
        ("deepseek", "2026-11-23T09:00", "no rule names it"),
    ],
)
def test_what_has_no_price_is_refused(model, beijing, reason) -> None:
    with pytest.raises(NoPrice, match=reason):
        find(model, beijing)


def test_r1_in_dollars() -> None:
    tariff = Tariff.parse(shipped("deepseek-usd"))
    assert prices("deepseek-reasoner", "2025-03-01T00:29:59", tariff) == (0.14, 0.55, 2.19)
    assert prices("deepseek-reasoner", "2025-03-01T00:30", tariff) == (0.035, 0.135, 0.55)
    assert prices("deepseek-reasoner", "2025-03-01T08:30", tariff) == (0.14, 0.55, 2.19)
    assert prices("deepseek-reasoner", "2025-02-20T04:00", tariff) == (0.14, 0.55, 2.19)


def test_prices_by_length() -> None:
    tariff = Tariff.parse(shipped("by-length"))
    now = "2026-11-23T09:00"
    assert prices("deepseek-v3.2", now, tariff, prompt_tokens=32_768) == (0.2, 2, 3)
    assert prices("deepseek-v3.2-exp", now, tariff, prompt_tokens=32_769) == (0.4, 4, 6)
    assert find("deepseek-v3.2", now, tariff).cache_storage == 17_000


def test_the_free_list_is_free_in_both_currencies() -> None:
    tariff = Tariff.parse(shipped("free"))
    for currency in ("CNY", "USD"):
        quote = tariff.find(
            model="x", tenant_id="y", at_ms=0, prompt_tokens=0, is_batch=False, currency=currency
        )
        assert (quote.hit, quote.miss, quote.output, quote.currency) == (0, 0, 0, currency)


def test_the_list_to_begin_with() -> None:
    tariff = Tariff.parse(shipped("start"))
    quote = find("any-model", "2026-09-20T10:00", tariff)  # a make-up Sunday is a workday
    assert (quote.rule_id, quote.miss, quote.numerator) == ("day", 2_000_000, 1)
    assert quote.free is not None
    assert (quote.free.allowance_id, quote.free.period) == ("trial", "2026-09")
    assert find("any-model", "2026-10-01T10:00", tariff).rule_id == "rest"
