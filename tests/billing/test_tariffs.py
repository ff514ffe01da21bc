"""Which rule prices a request, and the quote that it makes."""

from __future__ import annotations

import hashlib

import pytest

from tests.billing.tariff_text import ask, at_ms, calendar_tariff, rule, rule_id, tariff
from tribody.billing.pricing import Allowance, Quote
from tribody.billing.tariffs import Tariff
from tribody.core.errors import BadConfig, NoPrice


def test_the_quote_of_a_rule() -> None:
    text = """
        currency = "CNY"
        [free.trial]
        hit = 1
        miss = 2
        output = 3
        reasoning = 4
        [[rule]]
        id = "a"
        title = "A"
        models = ["m"]
        batch_factor = "2/3"
        hit = 0.1
        miss = 1
        output = 2
        reasoning = 3
        cache_storage = 4
        free = "trial"
        result = 5
        accept_seconds = 60
        """
    found = Tariff.parse(text)
    at = at_ms("2026-11-01 00:00")
    plain = Quote(
        tariff_digest=hashlib.sha256(text.encode()).hexdigest(),
        rule_id="a",
        title="A",
        currency="CNY",
        at_ms=at,
        hit=100_000,
        miss=1_000_000,
        output=2_000_000,
        reasoning=3_000_000,
        cache_storage=4_000_000,
        free=Allowance(
            allowance_id="trial", period="2026-11", hit=1, miss=2, output=3, reasoning=4
        ),
        result_micro=5_000_000,
        accept_seconds=60,
    )
    assert ask(found, "2026-11-01 00:00") == plain
    batch = ask(found, "2026-11-01 00:00", is_batch=True)
    assert (batch.numerator, batch.denominator, batch.hit) == (2, 3, 100_000)
    last = ask(found, "2026-10-31 23:59:59.999")
    assert last.free is not None
    assert last.free.period == "2026-10"  # months are the list's time zone's


def test_a_tariff_is_its_text() -> None:
    text = f'currency = "CNY"\n{rule("a")}'
    assert Tariff.parse(text).text == text
    assert Tariff.parse(text) == Tariff.parse(text)
    assert Tariff.parse(text) != Tariff.parse(text + "\n")
    assert Tariff.parse(text).digest != Tariff.parse(text + "\n").digest


def test_without_a_rule_there_is_no_price() -> None:
    found = tariff(rule("a", 'band = "day"'))
    with pytest.raises(
        NoPrice,
        match=r"no price for model 'x' in CNY at 2026-11-23T10:00:00\+08:00: no rule names it",
    ):
        ask(found, model="x")
    with pytest.raises(NoPrice, match=r"model 'm' in CNY at .*: rules for it do not cover this"):
        ask(found, "2026-11-23 18:00")
    assert issubclass(NoPrice, BadConfig)


def test_long_names_are_cut_in_errors() -> None:
    with pytest.raises(NoPrice, match=r"model 'x{80}' in"):
        ask(tariff(rule("a")), model="x" * 81)


def test_two_rules_that_stand_equal_are_no_price() -> None:
    found = tariff(rule("a"), rule("b", 'band = "day"'), rule("c"))
    with pytest.raises(NoPrice, match="rules a and b contradict each other"):
        ask(found)
    with pytest.raises(NoPrice, match="rules a and c contradict each other"):
        ask(found, "2026-11-23 18:00")


def test_exact_names_then_longer_beginnings() -> None:
    found = tariff(
        rule("all", models='["*"]'),
        rule("v3-all", models='["v3*"]'),
        rule("v3.1-all", models='["v3.1*"]'),
        rule("v3.1", models='["v3.1"]'),
        rule("two", models='["w*", "v3.2", "v3.1-*"]'),
    )
    assert rule_id(found, model="x") == "all"
    assert rule_id(found, model="v") == "all"
    assert rule_id(found, model="v3") == "v3-all"
    assert rule_id(found, model="V3") == "all"
    assert rule_id(found, model="v3.1") == "v3.1"
    assert rule_id(found, model="v3.10") == "v3.1-all"
    assert rule_id(found, model="v3.1-base") == "two"
    assert rule_id(found, model="v3.2") == "two"
    assert rule_id(found, model="v3.2x") == "v3-all"
    assert rule_id(found, model="wx") == "two"


def test_tenants_go_before_promotions_and_these_before_names() -> None:
    always = "promotion = true; from = 2026-01-01T00:00:00Z; until = 2027-01-01T00:00:00Z"
    found = tariff(
        rule("name"),
        rule("promotion", always, models='["*"]'),
        rule("acme", 'tenants = ["acme", "beta"]', models='["*"]'),
        rule("beta-promotion", f'tenants = ["beta"]; {always}', models='["*"]'),
        rule("beta-name", 'tenants = ["beta"]'),
    )
    assert rule_id(found) == "promotion"
    assert rule_id(found, tenant_id="acme") == "acme"
    assert rule_id(found, tenant_id="beta") == "beta-promotion"
    assert rule_id(found, "2025-11-23 10:00") == "name"
    assert rule_id(found, "2025-11-23 10:00", tenant_id="acme") == "acme"
    assert rule_id(found, "2025-11-23 10:00", tenant_id="beta") == "beta-name"


def test_a_tenants_rules_give_way_where_they_do_not_match() -> None:
    found = tariff(rule("all"), rule("acme", 'tenants = ["acme"]; band = "day"'))
    assert rule_id(found, "2026-11-23 17:59:59.999", tenant_id="acme") == "acme"
    assert rule_id(found, "2026-11-23 18:00", tenant_id="acme") == "all"


def test_instants_are_half_open() -> None:
    found = tariff(
        rule("a", "until = 2026-11-23T10:00:00+08:00"),
        rule("b", "from = 2026-11-23T02:00:00Z; until = 2026-11-23T02:01:00Z"),
        rule("c", "from = 2026-11-23T10:01:00+08:00"),
    )
    assert rule_id(found, "2026-11-23 09:59:59.999") == "a"
    assert rule_id(found, "2026-11-23 10:00") == "b"
    assert rule_id(found, "2026-11-23 10:00:59.999") == "b"
    assert rule_id(found, "2026-11-23 10:01") == "c"


def test_lengths_have_inclusive_ends() -> None:
    found = tariff(
        rule("short", "prompt_tokens = { up_to = 10 }"),
        rule("middle", "prompt_tokens = { above = 10, up_to = 20 }"),
        rule("long", "prompt_tokens = { above = 20 }"),
    )
    lengths = {0: "short", 10: "short", 11: "middle", 20: "middle", 21: "long", 10**9: "long"}
    for tokens, expected in lengths.items():
        assert rule_id(found, prompt_tokens=tokens) == expected


def test_batches_may_have_rules_of_their_own() -> None:
    found = tariff(
        rule("batch", 'batch = true; batch_factor = "1/4"'), rule("other", "batch = false")
    )
    assert rule_id(found, is_batch=True) == "batch"
    assert rule_id(found, is_batch=False) == "other"
    assert ask(found, is_batch=True).denominator == 4


def test_currencies_are_lists_apart() -> None:
    found = tariff(rule("yuan"), rule("dollars", 'currency = "USD"', models='["m", "n"]'))
    assert rule_id(found) == rule_id(found, currency="CNY") == "yuan"
    assert ask(found, currency="USD").currency == "USD"
    assert rule_id(found, currency="USD") == "dollars"
    with pytest.raises(NoPrice, match=r"model 'n' in CNY at .*: no rule names it"):
        ask(found, model="n")


def test_hours_across_midnight() -> None:
    found = tariff(
        rule("night", 'band = "across"'),
        rule("day", 'band = "between"'),
        bands='[band.across]\nhours = ["22:00-06:00"]\n[band.between]\nall_but = ["across"]',
    )
    for clock, expected in {
        "21:59:59": "day",
        "22:00": "night",
        "23:59:59": "night",
        "00:00": "night",
        "05:59:59": "night",
        "06:00": "day",
    }.items():
        assert rule_id(found, f"2026-11-23 {clock}") == expected


def test_days_of_the_week() -> None:
    found = tariff(rule("weekend", 'band = "weekend"'), rule("week", "", models='["*"]'))
    days = ["week"] * 5 + ["weekend"] * 2
    for day, expected in enumerate(days, start=23):  # 2026-11-23 is a Monday
        assert rule_id(found, f"2026-11-{day} 00:00") == expected
        assert rule_id(found, f"2026-11-{day} 23:59:59") == expected


def test_clock_times_are_of_the_lists_zone() -> None:
    rules = (rule("day", 'band = "day"'), rule("night", 'band = "night"'))
    beijing, berlin = tariff(*rules), tariff(*rules, head='time_zone = "Europe/Berlin"')
    assert rule_id(beijing, "2026-11-23 09:00") == "day"
    assert rule_id(berlin, "2026-11-23 09:00") == "night"
    assert rule_id(berlin, "2026-11-23 16:00") == "day"  # winter: seven hours behind
    assert rule_id(berlin, "2026-07-23 15:00") == "day"  # summer: six
    assert rule_id(berlin, "2026-07-23 14:59:59") == "night"


def test_make_up_workdays_and_holidays() -> None:
    found = calendar_tariff(rule("work", 'band = "work"'), rule("rest", 'band = "rest"'))
    assert rule_id(found, "2026-09-20 10:00") == "work"  # a Sunday, worked
    assert rule_id(found, "2026-09-13 10:00") == "rest"  # a Sunday
    assert rule_id(found, "2026-10-01 10:00") == "rest"  # a Thursday, off
    assert rule_id(found, "2026-10-08 10:00") == "work"
    assert rule_id(found, "2026-10-08 18:00") == "rest"
    assert rule_id(found, "2026-12-31 17:59:59") == "work"


def test_a_year_that_the_calendar_lacks() -> None:
    found = calendar_tariff(rule("work", 'band = "work"'), rule("rest", 'band = "rest"'))
    assert rule_id(found, "2027-01-04 18:00") == "rest"  # on any day
    for beijing in ("2027-01-04 10:00", "2027-01-02 10:00", "2024-12-31 10:00"):
        with pytest.raises(
            NoPrice,
            match=f"no price for model 'm' in CNY at .*: it depends on holidays, and the calendar "
            f"has no {beijing[:4]}",
        ):
            ask(found, beijing)


def test_an_unknown_day_matters_only_where_it_can_decide() -> None:
    promotion = "promotion = true; from = 2026-01-01T00:00:00Z; until = 2028-01-01T00:00:00Z"
    above = calendar_tariff(rule("holiday", 'band = "holiday"'), rule("promotion", promotion))
    assert rule_id(above, "2027-01-04 10:00") == "promotion"
    below = calendar_tariff(rule("a"), rule("holiday", f'band = "holiday"; {promotion}'))
    with pytest.raises(NoPrice, match="has no 2027"):
        ask(below, "2027-01-04 10:00")
    equal = calendar_tariff(rule("a"), rule("holiday", 'band = "holiday"'))
    with pytest.raises(NoPrice, match="has no 2027"):
        ask(equal, "2027-01-04 10:00")


def test_make_up_days_are_on_weekends_only() -> None:
    """A Monday of an unknown year is a workday or a holiday, a Sunday may be all three."""
    bands = '[band.b]\ndays = ["make-up-days"]\n[band.c]\nall_but = ["b"]'
    found = tariff(
        rule("b", 'band = "b"'), rule("c", 'band = "c"'), head='calendar = "china"', bands=bands
    )
    assert rule_id(found, "2027-01-04 10:00") == "c"
    with pytest.raises(NoPrice, match="has no 2027"):
        ask(found, "2027-01-03 10:00")
