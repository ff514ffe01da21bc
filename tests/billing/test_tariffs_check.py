"""What `Tariff.problems` finds, against expectations and against asking for every hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.billing.tariff_text import at_ms, calendar_tariff, rule, tariff
from tribody.billing import tariffs_check
from tribody.billing.tariffs import Tariff
from tribody.billing.tariffs_check import Request
from tribody.core.errors import NoPrice


def texts(found: Tariff, severity: str | None = None) -> list[str]:
    return [p.text for p in found.problems() if severity in (None, p.severity)]


def test_a_sound_list() -> None:
    assert texts(tariff(rule("a"), bands="")) == []
    found = tariff(
        rule("day", 'band = "day"'),
        rule("night", 'band = "night"'),
        rule(
            "promotion", 'band = "weekend"; promotion = true; ' + span("2026-01-01", "2026-02-01")
        ),
    )
    assert texts(found) == []


def span(since: str, until: str) -> str:
    return f"from = {since}T00:00:00+08:00; until = {until}T00:00:00+08:00"


def test_an_hour_that_no_rule_prices() -> None:
    (problem,) = tariff(
        rule("a", 'band = "day"'), bands='[band.day]\nhours = ["09:00-12:00"]'
    ).problems()
    assert problem.severity == "error"
    assert problem.text == "no rule for model m in CNY at Sat 2000-01-01 00:00"
    assert problem.example is not None
    assert problem.example.at_ms == 946_656_000_000


def test_a_minute_that_no_rule_prices() -> None:
    bands = '[band.a]\nhours = ["00:00-12:00"]\n[band.b]\nhours = ["12:01-24:00"]'
    found = tariff(
        rule("a", f'band = "a"; {span("2026-11-23", "2027-01-01")}'),
        rule("b", f'band = "b"; {span("2026-11-23", "2027-01-01")}'),
        bands=bands,
    )
    assert texts(found, "error") == ["no rule for model m in CNY at Mon 2026-11-23 12:00"]


def test_days_between_two_rules() -> None:
    found = tariff(
        rule("a", "until = 2026-11-23T00:00:00+08:00"),
        rule("b", "from = 2026-11-23T00:01:00+08:00"),
        rule("c", "", models='["*"]'),
        bands="",
    )
    assert texts(found) == []  # c steps in
    found = tariff(
        rule("a", "until = 2026-11-23T00:00:00+08:00"),
        rule("b", "from = 2026-11-23T00:01:00+08:00"),
        bands="",
    )
    assert texts(found) == ["no rule for model m in CNY at Mon 2026-11-23 00:00"]


def test_each_gap_is_told_once() -> None:
    found = tariff(
        rule("a", f'band = "day"; {span("2026-01-01", "2026-02-01")}', models='["m", "n"]'),
        rule("b", span("2026-03-01", "2026-04-01"), models='["m", "n"]'),
    )
    assert texts(found, "error") == [
        "no rule for model m in CNY at Thu 2026-01-01 00:00",
        "no rule for model m in CNY at Sun 2026-02-01 00:00",
        "no rule for model n in CNY at Sun 2026-02-01 00:00",
    ]


def test_rules_that_contradict_each_other() -> None:
    found = tariff(rule("a"), rule("b", 'band = "weekend"'), rule("c", 'band = "weekend"'))
    (problem, *_) = found.problems()
    assert problem.text == (
        "rules a, b, c contradict each other for model m in CNY at Sat 2000-01-01 00:00"
    )


def test_a_contradiction_of_one_minute() -> None:
    bands = '[band.a]\nhours = ["00:00-12:01"]\n[band.b]\nhours = ["12:00-24:00"]'
    found = tariff(rule("a", 'band = "a"'), rule("b", 'band = "b"'), bands=bands)
    assert texts(found) == [
        "rules a, b contradict each other for model m in CNY at Sat 2000-01-01 12:00"
    ]
    found = tariff(
        rule("a", "until = 2026-11-23T00:01:00+08:00"),
        rule("b", "from = 2026-11-23T00:00:00+08:00"),
        bands="",
    )
    assert texts(found) == [
        "rules a, b contradict each other for model m in CNY at Mon 2026-11-23 00:00"
    ]


@pytest.mark.parametrize("other", ["promotion = true; ", 'batch_factor = "1/2"; '])
def test_each_contradiction_is_told_once(other) -> None:
    """Also where another rule cuts its time into three."""
    found = tariff(
        rule("a", span("2026-01-01", "2026-04-01")),
        rule("b", span("2026-01-01", "2026-04-01")),
        rule("c", other + span("2026-02-01", "2026-03-01"), models='["*"]'),
        bands="",
    )
    assert texts(found, "error") == [
        "rules a, b contradict each other for model m in CNY at Thu 2026-01-01 00:00"
    ]


def test_rules_of_another_precedence_do_not_contradict() -> None:
    promotion = f"promotion = true; {span('2026-01-01', '2026-02-01')}"
    found = tariff(
        rule("a"),
        rule("all", models='["*"]'),
        rule("promotion", promotion, models='["*"]'),
        rule("acme", 'tenants = ["acme"]', models='["*"]'),
        rule("dollars", 'currency = "USD"'),
        bands="",
    )
    assert texts(found) == []


def test_what_is_shadowed_everywhere_never_applies() -> None:
    found = tariff(rule("a"), rule("b", models='["m*"]'), rule("c", models='["*"]'), bands="")
    assert texts(found) == []  # b and c have other models for themselves
    text = "never applies: others go before it, or its days never come"
    found = tariff(
        rule("a", span("2026-01-01", "2026-01-08")),
        rule("b", f"promotion = true; {span('2026-01-01', '2026-01-08')}"),
        bands="",
    )
    assert texts(found)[0] == f"rule a {text}"
    found = tariff(
        rule("a", 'tenants = ["acme"]'),
        rule("b", 'tenants = ["acme"]', models='["m", "n"]'),
        bands="",
    )
    assert f"rule b {text}" not in texts(found)
    found = tariff(
        rule("a", span("2026-11-23", "2026-11-28")),
        rule("b", f'band = "weekend"; {span("2026-11-23", "2026-11-28")}'),
    )
    assert f"rule b {text}" in texts(found)
    assert texts(found, "error") == []


def test_tenants_are_looked_at_one_by_one() -> None:
    found = tariff(
        rule("a", 'tenants = ["acme"]; band = "day"'),
        rule("b", 'tenants = ["beta"]'),
        rule("other", models='["n"]'),
    )
    assert texts(found, "error") == [
        "no rule for model m in CNY at Sat 2000-01-01 00:00, tenant acme"
    ]
    with_default = tariff(rule("a", 'tenants = ["acme"]; band = "day"'), rule("all"))
    assert texts(with_default, "error") == []


def test_a_tenant_behind_one_of_other_models() -> None:
    found = tariff(
        rule("a", 'tenants = ["aa"]', models='["n"]'),
        rule("z", 'tenants = ["zz"]; band = "day"'),
    )
    assert texts(found, "error") == [
        "no rule for model m in CNY at Sat 2000-01-01 00:00, tenant zz"
    ]


def test_a_tenant_of_two_lists() -> None:
    found = tariff(
        rule("a", 'tenants = ["acme", "beta"]'),
        rule("b", 'tenants = ["beta"]'),
        rule("all"),
        bands="",
    )
    assert texts(found) == [
        "rules a, b contradict each other for model m in CNY at Sat 2000-01-01 00:00, tenant beta",
    ]


def test_lengths_are_looked_at_one_by_one() -> None:
    short, long = "prompt_tokens = { up_to = 10 }", "prompt_tokens = { above = 11 }"
    assert texts(tariff(rule("a", short), rule("b", long), bands="")) == [
        "no rule for model m in CNY at Sat 2000-01-01 00:00, prompt of 11 tokens"
    ]
    both = tariff(rule("a", short), rule("b", "prompt_tokens = { above = 9 }"), bands="")
    assert texts(both) == [
        "rules a, b contradict each other for model m in CNY at Sat 2000-01-01 00:00, "
        "prompt of 10 tokens"
    ]
    assert texts(tariff(rule("a", short), bands="")) == [
        "no rule for model m in CNY at Sat 2000-01-01 00:00, prompt of 11 tokens"
    ]
    assert texts(tariff(rule("b", long), bands="")) == [
        "no rule for model m in CNY at Sat 2000-01-01 00:00"
    ]


def test_batches_are_looked_at_apart() -> None:
    assert texts(tariff(rule("a", "batch = true"), bands="")) == [
        "no rule for model m in CNY at Sat 2000-01-01 00:00"
    ]
    assert texts(tariff(rule("a", "batch = false"), bands="")) == [
        "no rule for model m in CNY at Sat 2000-01-01 00:00, in a batch"
    ]
    assert texts(tariff(rule("a", "batch = false"), rule("b", "batch = true"), bands="")) == []


def test_beginnings_are_looked_at_beside_names() -> None:
    found = tariff(
        rule("a", models='["m1*"]'),
        rule("b", 'band = "day"', models='["m*"]'),
        rule("c", models='["n"]'),
    )
    assert texts(found, "error") == ["no rule for model m* in CNY at Sat 2000-01-01 00:00"]


def test_the_calendars_end_is_a_warning() -> None:
    found = calendar_tariff(
        rule("work", 'band = "work"; from = 2025-01-01T00:00:00+08:00'),
        rule("rest", 'band = "rest"; from = 2025-01-01T00:00:00+08:00'),
        rule("all", models='["*"]'),
    )
    first, *others = found.problems()
    assert (first.severity, first.text) == (
        "warning",
        "the calendar does not know Fri 2027-01-01 09:00: prices that depend on holidays are "
        "refused then, not guessed, those of rules work, rest",
    )
    assert first.example == Request(
        currency="CNY",
        model="m",
        tenant_id="",
        at_ms=at_ms("2027-01-01 09:00"),
        prompt_tokens=0,
        is_batch=False,
    )
    assert [p.text for p in others] == [
        f"band {name} is used by no rule" for name in ("holiday", "night", "weekend")
    ]


def test_unknown_days_are_told_once_for_all_rules() -> None:
    def warning(num_models: int) -> str:
        rules = [
            rule(f"{band}-{n}", f'band = "{band}"', models=f'["m{n}"]')
            for n in range(num_models)
            for band in ("work", "rest")
        ]
        return texts(calendar_tariff(*rules, rule("all", models='["*"]')))[0]

    ten = ", ".join(f"{band}-{n}" for n in range(5) for band in ("work", "rest"))
    assert warning(5).endswith(f", those of rules {ten}")
    assert warning(6).endswith(f", those of rules {ten} and 2 more")


def test_days_before_the_calendar_are_an_error() -> None:
    since = "from = 2024-12-31T00:00:00+08:00"
    found = calendar_tariff(
        rule("a", f'band = "work"; {since}'), rule("b", f'band = "rest"; {since}')
    )
    assert texts(found, "error") == [
        "the calendar does not know Tue 2024-12-31 09:00: prices that depend on holidays are "
        "refused then, not guessed, those of rules a, b"
    ]
    assert "2027-01-01 09:00" in texts(found, "warning")[0]
    open_start = calendar_tariff(rule("a", 'band = "work"'), rule("b", 'band = "rest"'))
    assert texts(open_start, "error") == []
    until = "until = 2024-06-01T00:00:00+08:00"
    past = calendar_tariff(
        rule("a", f'band = "work"; {until}'), rule("b", f'band = "rest"; {until}')
    )
    assert "the calendar does not know Fri 2024-05-17 09:00: " in texts(past, "error")[0]


def test_a_hole_in_a_calendar_is_an_error() -> None:
    years = "".join(f'[[calendar.year]]\nnumber = {n}\nsource = "s"\n' for n in (2025, 2027))
    found = tariff(
        rule("a", 'band = "work"'),
        rule("b", 'band = "rest"'),
        bands=f'[band.work]\ndays = ["workdays"]\n[band.rest]\nall_but = ["work"]\n{years}',
    )
    assert "does not know Thu 2026-01-01 00:00" in texts(found, "error")[0]
    assert "does not know Sat 2028-01-01 00:00" in texts(found, "warning")[0]


def test_the_calendars_days_are_walked() -> None:
    """A gap on holidays counts only where there is one."""
    plain = 'band = "all-but-holidays"; '
    bands = '[band.all-but-holidays]\nexcept_days = ["holidays"]'
    head = 'calendar = "china"'
    november = tariff(rule("a", plain + span("2026-11-01", "2026-12-01")), head=head, bands=bands)
    assert texts(november, "error") == []
    october = tariff(rule("a", plain + span("2026-10-07", "2026-12-01")), head=head, bands=bands)
    assert texts(october, "error") == ["no rule for model m in CNY at Wed 2026-10-07 00:00"]
    after = tariff(rule("a", plain + span("2026-10-08", "2026-12-01")), head=head, bands=bands)
    assert texts(after, "error") == []


def test_only_days_of_a_span_are_looked_at() -> None:
    """Before the calendar, within it and after it: a week's first days need no weekend's price."""
    week = '[band.week]\ndays = ["mon-fri"]'
    for monday, tuesday in (("2024-06-03", "04"), ("2026-11-23", "24"), ("2028-06-05", "06")):
        until = f"{monday[:8]}{tuesday}"
        found = tariff(
            rule("a", f'band = "week"; {span(monday, until)}'),
            head='calendar = "china"',
            bands=week,
        )
        assert texts(found, "error") == []


def test_a_clock_that_is_changed() -> None:
    """In Berlin the hour from 2:00 is missing on 2026-03-29 and comes twice on 2026-10-25."""
    bands = '[band.a]\nhours = ["00:00-02:00"]\n[band.b]\nhours = ["03:00-24:00"]'
    berlin = 'time_zone = "Europe/Berlin"'

    def errors(since: str, until: str) -> list[str]:
        keys = f"from = {since}; until = {until}"
        found = tariff(
            rule("a", f'band = "a"; {keys}'),
            rule("b", f'band = "b"; {keys}'),
            head=berlin,
            bands=bands,
        )
        return texts(found, "error")

    assert errors("2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00") == []
    assert errors("2026-03-28T03:00:00+01:00", "2026-03-30T02:00:00+02:00") == []
    assert len(errors("2026-03-28T02:59:00+01:00", "2026-03-30T02:00:00+02:00")) == 1
    assert len(errors("2026-03-29T00:00:00+01:00", "2026-03-30T02:01:00+02:00")) == 1
    assert errors("2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00") == [
        "no rule for model m in CNY at Sun 2026-10-25 02:00"
    ]
    assert errors("2026-10-25T03:00:00+01:00", "2026-10-25T04:00:00+01:00") == []
    # From the second half of the hour's first coming to the first half of its second.
    assert len(errors("2026-10-25T02:30:00+02:00", "2026-10-25T02:10:00+01:00")) == 1


def test_what_is_hardly_meant() -> None:
    text = """
        [free.unused]
        hit = 1
        [free.used]
        hit = 1
        """
    found = tariff(rule("a", 'hit = 2; free = "used"').replace("hit = 1\n", "", 1), bands=text)
    assert [(p.severity, p.text, p.example) for p in found.problems()] == [
        ("warning", "rule a: a cache hit costs more than a miss", None),
        ("warning", "free tier unused is used by no rule", None),
    ]
    storage = "rule a: what is kept in the cache is not measured yet"
    assert any(text.startswith(storage) for text in texts(tariff(rule("a", "cache_storage = 1"))))
    found = tariff(
        rule("a", 'band = "rest"'), bands='[band.b]\n[band.c]\n[band.rest]\nall_but = ["b"]'
    )
    assert "band c is used by no rule" in texts(found)
    assert "band b is used by no rule" not in texts(found)


def test_models_whose_prices_end() -> None:
    found = tariff(
        rule("a", span("2026-01-01", "2026-02-01"), models='["m", "n"]'),
        rule("b", "from = 2026-02-01T00:00:00+08:00", models='["n"]'),
        rule("c", span("2026-01-01", "2026-03-01"), models='["o"]'),
        rule("d", f'currency = "USD"; {span("2026-01-01", "2026-02-01")}', models='["n"]'),
        rule("e", f'tenants = ["acme"]; {span("2026-01-01", "2026-02-01")}', models='["p"]'),
        bands="",
    )
    assert texts(found) == [
        "no price from 2026-02-01 00:00 on: m (CNY), n (USD)",
        "no price from 2026-03-01 00:00 on: o (CNY)",
    ]


def test_very_many_problems_are_cut() -> None:
    rules = [rule(f"a{n}", "batch = true", models=f'["m{n}"]') for n in range(102)]
    found = tariff(*rules[1:101], bands="").problems()
    assert len(found) == 100
    assert found[99].text.startswith("no rule")
    found = tariff(*rules[1:], bands="").problems()
    assert len(found) == 101
    assert (found[100].severity, found[100].text) == ("error", "and 1 problems more")


def test_a_list_of_too_many_cases_is_told(monkeypatch) -> None:
    monkeypatch.setattr(tariffs_check, "MAX_CASES", 4)
    rules = [rule(f"a{n}", models=f'["m{n}"]') for n in range(3)]
    assert texts(tariff(*rules[:2], bands="")) == []  # two models, in batches and not
    assert texts(tariff(*rules, bands="")) == [
        "more than 4 cases of models, tenants and dates; split the list"
    ]


# --- Against asking for every hour ---------------------------------------------------------------

HOUR = timedelta(hours=1)
MODELS = ('["m"]', '["m*"]', '["mx*"]', '["*"]', '["m", "n"]')
NAMES = ("m", "my", "mxa", "n", "z")
TENANTS = ("", 'tenants = ["acme"]', 'tenants = ["acme", "beta"]')
RANDOM_BANDS = """
[band.day]
hours = ["09:00-18:00"]
[band.night]
all_but = ["day"]
[band.early]
hours = ["22:00-09:00"]
[band.late]
all_but = ["early"]
[band.weekend]
days = ["sat", "sun"]
[band.week]
all_but = ["weekend"]
[band.work]
days = ["workdays"]
hours = ["01:00-03:00", "09:00-18:00"]
[band.rest]
all_but = ["work"]
[band.holidays]
days = ["holidays"]
[band.others]
all_but = ["holidays"]
"""
PARTS = (
    ("",),
    ('band = "day"', 'band = "night"'),
    ('band = "early"', 'band = "late"'),
    ('band = "week"', 'band = "weekend"'),
    ('band = "work"', 'band = "rest"'),
    ('band = "holidays"', 'band = "others"'),
)
HALVES = (
    ("",),
    ("batch = true", "batch = false"),
    ("prompt_tokens = { up_to = 5 }", "prompt_tokens = { above = 5 }"),
)
BEGINNINGS = {  # weeks with holidays and make-up days, the calendar's end, changes of the clocks
    "Asia/Shanghai": ("2026-09-18", "2026-09-30", "2026-12-29"),
    "Europe/Berlin": ("2026-03-27", "2026-10-23"),
}


@st.composite
def lists_of_rules(draw, since: datetime) -> list[tuple[str, str]]:
    """Keys of rules that share out all requests of some models from `since` on."""
    models, tenants = draw(st.sampled_from(MODELS)), draw(st.sampled_from(TENANTS))
    cuts = [0, *sorted(draw(st.sets(st.integers(1, 99), max_size=2))), 100]
    rules = []
    for start, end in pairwise(cuts):
        begin, until = since + start * HOUR, since + end * HOUR
        times = f"from = {begin.isoformat()}; until = {until.isoformat()}"
        for part in draw(st.sampled_from(PARTS)):
            for half in draw(st.sampled_from(HALVES)):
                keys = "; ".join(key for key in (tenants, times, part, half) if key)
                rules.append((keys, models))
    return rules


@st.composite
def random_tariffs(draw, damaged: bool = True) -> Tariff:
    """One or two lists of rules; some rules left out, some written twice, some promotions."""
    zone = draw(st.sampled_from(sorted(BEGINNINGS)))
    since = datetime.fromisoformat(draw(st.sampled_from(BEGINNINGS[zone]))).replace(tzinfo=UTC)
    rules = draw(lists_of_rules(since))
    if damaged:
        rules += draw(st.just([]) | lists_of_rules(since))
        promotions = draw(st.sets(st.integers(0, len(rules) - 1), max_size=2))
        rules = [
            (f"{keys}; promotion = true" if n in promotions else keys, models)
            for n, (keys, models) in enumerate(rules)
        ]
        if draw(st.booleans()) and len(rules) > 1:
            del rules[draw(st.integers(0, len(rules) - 1))]
        if draw(st.integers(0, 3)) == 0:
            rules.append(draw(st.sampled_from(rules)))
    written = [rule(f"r{n}", keys, models=models) for n, (keys, models) in enumerate(rules)]
    return tariff(*written, head=f'calendar = "china"\ntime_zone = "{zone}"', bands=RANDOM_BANDS)


def every_hour(found: Tariff):
    """(what happens, the quote's rule) for every kind of request within its model's time."""
    rules = found.prices.rules
    for name in NAMES:
        for tenant_id in ("", "acme", "beta"):
            own = [r for r in rules if any(fits(p, name) for p in r.models)]
            own = [r for r in own if not r.tenants or tenant_id in r.tenants]
            if not own or (tenant_id and not any(r.tenants for r in own)):
                continue
            first = min(r.from_minute or 0 for r in own)
            last = max(r.until_minute or 0 for r in own)
            for minute in range(first, last, 60):
                for tokens, is_batch in ((5, False), (6, False), (5, True), (6, True)):
                    try:
                        quote = found.find(
                            model=name,
                            tenant_id=tenant_id,
                            at_ms=minute * 60_000,
                            prompt_tokens=tokens,
                            is_batch=is_batch,
                        )
                    except NoPrice as error:
                        yield ("calendar" if "calendar" in str(error) else "error"), ""
                    else:
                        yield "price", quote.rule_id


def fits(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def compare(found: Tariff) -> None:
    asked = set(every_hour(found))
    problems = found.problems()
    texts = [p.text for p in problems]
    outcomes = {what for what, _ in asked}
    calendar_ends = [p for p in problems if "calendar does not know" in p.text]
    assert ("error" in outcomes) == any(p.severity == "error" for p in problems), texts
    assert ("calendar" in outcomes) == bool(calendar_ends), texts
    for problem in problems:
        if problem.example is not None:
            example = problem.example
            with pytest.raises(NoPrice):
                found.find(
                    model=example.model,
                    tenant_id=example.tenant_id,
                    at_ms=example.at_ms,
                    prompt_tokens=example.prompt_tokens,
                    is_batch=example.is_batch,
                    currency=example.currency,
                )
    if outcomes == {"price"}:
        idle = {r.rule_id for r in found.prices.rules} - {rule_id for _, rule_id in asked}
        assert {text.split()[1] for text in texts if "never applies" in text} == idle


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_tariffs())
def test_problems_are_those_of_asking_for_every_hour(found) -> None:
    compare(found)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_tariffs())
def test_problems_are_those_of_asking_for_every_hour_slow(found) -> None:
    compare(found)


@settings(max_examples=50, deadline=None)
@given(random_tariffs(damaged=False), st.data())
def test_without_errors_exactly_one_rule_prices_any_instant(found, data) -> None:
    assert [p for p in found.problems() if p.severity == "error"] == []
    rules = found.prices.rules
    first = min(r.from_minute or 0 for r in rules)
    minute = data.draw(st.integers(first, first + 100 * 60 - 1))
    request = {
        "model": rules[0].models[0].replace("*", "?"),
        "tenant_id": min(rules[0].tenants, default=""),
        "at_ms": minute * 60_000 + data.draw(st.integers(0, 59_999)),
        "prompt_tokens": data.draw(st.integers(0, 10)),
        "is_batch": data.draw(st.booleans()),
    }
    try:
        assert found.find(**request).rule_id in {r.rule_id for r in rules}
    except NoPrice as error:
        assert "the calendar has no 2027" in str(error)  # noqa: PT017
