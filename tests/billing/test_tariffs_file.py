"""Reading a price list: what each key means, and that everything else is refused with its place."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribody.billing.pricing import Allowance
from tribody.billing.tariffs import SHIPPED, Tariff, shipped
from tribody.billing.tariffs_file import read
from tribody.billing.tariffs_rules import ALL_DAY, ALWAYS, DAY_TYPES, Prices
from tribody.billing.toml_text import MAX_TEXT_BYTES
from tribody.core.errors import BadTariff

HEAD = 'currency = "CNY"\n'
RULE = '[[rule]]\nid = "a"\nmodels = ["m"]\nhit = 1\nmiss = 2\noutput = 3\n'


def rule_of(more: str, head: str = HEAD):
    (rule,) = read(head + RULE + more).rules
    return rule


def test_the_least_that_a_list_says() -> None:
    prices = read(HEAD + RULE)
    assert (prices.title, prices.currency, prices.calendar) == ("", "CNY", None)
    assert prices.zone.key == "Asia/Shanghai"
    (rule,) = prices.rules
    assert (rule.rule_id, rule.title, rule.currency) == ("a", "", "CNY")
    assert (rule.models, rule.tenants, rule.band) == (("m",), frozenset(), ALWAYS)
    assert (rule.from_minute, rule.until_minute, rule.is_promotion) == (None, None, False)
    assert (rule.above, rule.up_to, rule.for_batch, rule.free) == (-1, None, None, None)
    assert rule.prices == Prices(hit=1_000_000, miss=2_000_000, output=3_000_000)


def test_all_that_a_rule_says() -> None:
    rule = rule_of(
        """
        title = "A"
        source = "somewhere"
        tenants = ["acme", "beta"]
        currency = "USD"
        from = 2026-01-01T00:00:00+08:00
        until = 2026-01-01T00:01:00+08:00
        band = "night"
        promotion = true
        prompt_tokens = { above = 10, up_to = 11 }
        batch = true
        batch_factor = "2/3"
        reasoning = "0.5"
        cache_storage = 0.017
        free = "trial"
        result = 1.5
        accept_seconds = 60
        [band.night]
        hours = ["00:30-08:30"]
        [free.trial]
        hit = 1
        miss = 2
        output = 3
        reasoning = 4
        """
    )
    assert (rule.title, rule.tenants, rule.currency) == ("A", {"acme", "beta"}, "USD")
    assert rule.until_minute - rule.from_minute == 1
    assert rule.from_minute * 60 == 1_767_196_800
    assert (rule.is_promotion, rule.above, rule.up_to, rule.for_batch) == (True, 10, 11, True)
    assert rule.band.name == "night"
    assert rule.free == Allowance(
        allowance_id="trial", period="", hit=1, miss=2, output=3, reasoning=4
    )
    assert rule.prices == Prices(
        hit=1_000_000,
        miss=2_000_000,
        output=3_000_000,
        reasoning=500_000,
        cache_storage=17_000,
        batch_numerator=2,
        batch_denominator=3,
        result_micro=1_500_000,
        accept_seconds=60,
    )


@pytest.mark.parametrize(
    ("written", "micro"),
    [
        ("0", 0),
        ("2", 2_000_000),
        ("0.04", 40_000),
        ('"0.04"', 40_000),
        ("0.000001", 1),
        ("1000000", 10**12),
        ("1000000.0", 10**12),
    ],
)
def test_prices_are_exact(written, micro) -> None:
    assert rule_of(f"reasoning = {written}").prices.reasoning == micro


@pytest.mark.parametrize(
    "written",
    [
        *("0.0000001", '"0.0000001"', "1e3", "nan", "inf", "-1", '"-0.000001"', '"1,5"', '""'),
        *("1000001", "1000000.000001", "true", "[1]", "{}", "2026-01-01", "1_0.5"),
    ],
)
def test_prices_that_are_not_exact_are_refused(written) -> None:
    with pytest.raises(BadTariff, match=r"rule 1 \('a'\): .*price.* at `\$.reasoning`"):
        rule_of(f"reasoning = {written}")


DAYS = {"plain": 7, "holiday": 7, "make-up": 2}


def hours_of(band: str, head: str = "") -> dict:
    text = f'{head}{HEAD}{RULE}band = "b"\n[band.b]\n{band}'
    return dict(read(text).rules[0].band.hours)


def days_of(band: str) -> set:
    hours = hours_of(band, 'calendar = "china"\n')
    assert set(hours) == set(DAY_TYPES)
    assert set(hours.values()) <= {(), ALL_DAY}
    return {day for day, minutes in hours.items() if minutes}


def kinds(*wanted: str, weekdays=range(7)) -> set:
    return {(w, kind) for w, kind in DAY_TYPES if kind in wanted and w in weekdays}


def test_types_of_day() -> None:
    assert len(DAY_TYPES) == 16
    assert kinds("make-up") == {(5, "make-up"), (6, "make-up")}
    assert len(kinds("plain")) == len(kinds("holiday")) == 7


ANY = ("plain", "holiday", "make-up")


@pytest.mark.parametrize(
    ("band", "expected"),
    [
        ("", kinds(*ANY)),
        ('days = ["mon"]', kinds(*ANY, weekdays=[0])),
        ('days = ["sun"]', kinds(*ANY, weekdays=[6])),
        ('days = ["sat", "sun"]', kinds(*ANY, weekdays=[5, 6])),
        ('days = ["mon-fri"]', kinds(*ANY, weekdays=range(5))),
        ('days = ["tue-tue"]', kinds(*ANY, weekdays=[1])),
        ('days = ["mon-sun"]', kinds(*ANY)),
        ('days = ["holidays"]', kinds("holiday")),
        ('days = ["make-up-days"]', kinds("make-up")),
        ('days = ["workdays"]', kinds("make-up") | kinds("plain", weekdays=range(5))),
        ('days = ["rest-days"]', kinds("holiday") | kinds("plain", weekdays=[5, 6])),
        ('days = ["workdays", "rest-days"]', kinds(*ANY)),
        ('except_days = ["workdays", "rest-days"]', set()),
        ('except_days = ["holidays"]', kinds("plain", "make-up")),
        (
            'days = ["mon-fri"]\nexcept_days = ["holidays"]',
            kinds("plain", weekdays=range(5)),
        ),
        (
            'days = ["wed-thu"]\nexcept_days = ["thu"]',
            kinds("plain", "holiday", weekdays=[2]),
        ),
    ],
)
def test_days(band, expected) -> None:
    assert days_of(band) == expected


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (["00:00-24:00"], ((0, 1440),)),
        (["09:00-12:00"], ((540, 720),)),
        (["14:00-18:00", "09:00-12:00"], ((540, 720), (840, 1080))),
        (["09:00-12:00", "12:00-13:00"], ((540, 780),)),
        (["09:00-12:00", "10:00-11:00"], ((540, 720),)),
        (["09:00-12:00", "11:59-12:01"], ((540, 721),)),
        (["23:59-00:01"], ((0, 1), (1439, 1440))),
        (["16:30-00:30"], ((0, 30), (990, 1440))),
        (["22:00-00:00"], ((1320, 1440),)),
        (["12:00-11:00", "11:00-12:00"], ((0, 1440),)),
    ],
)
def test_hours(hours, expected) -> None:
    assert set(hours_of(f"hours = {hours}").values()) == {expected}


def test_hours_of_named_days() -> None:
    hours = hours_of('days = ["sat"]\nhours = ["22:00-24:00", "00:00-06:00"]')
    for (weekday, _), minutes in hours.items():
        assert minutes == (((0, 360), (1320, 1440)) if weekday == 5 else ())


def test_a_band_of_all_that_others_leave() -> None:
    text = f"""{HEAD}{RULE}band = "rest"
        [band.noon]
        hours = ["12:00-13:00"]
        [band.rest]
        all_but = ["noon", "sunday"]
        [band.sunday]
        days = ["sun"]
        """
    band = read(text).rules[0].band
    assert (band.name, band.all_but) == ("rest", ("noon", "sunday"))
    for (weekday, _), minutes in band.hours.items():
        assert minutes == (() if weekday == 6 else ((0, 720), (780, 1440)))


def test_a_calendar_of_the_lists_own() -> None:
    year = '[[calendar.year]]\nnumber = 2027\nsource = "s"\n'
    prices = read(f'{HEAD}{RULE}[calendar]\nextends = "china"\n{year}')
    assert prices.calendar is not None
    assert prices.calendar.years == {2025, 2026, 2027}
    prices = read(f"{HEAD}{RULE}{year}")
    assert prices.calendar is not None
    assert prices.calendar.years == {2027}
    prices = read(f'calendar = "china"\n{HEAD}{RULE}')
    assert prices.calendar is not None
    assert prices.calendar.name == "china"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("hits = 1", "unknown field `hits`"),
        ("title = 1", r"Expected `str`, got `int` - at `\$.title`"),
        ('title = "a\\nb"', "one line of at most 200 characters"),
        ('title = "%s"' % ("t" * 201), "one line of at most 200 characters"),
        ("tenants = []", "length >= 1"),
        ('tenants = ["-a"]', "tenant '-a': write up to 64 letters"),
        ('tenants = ["%s"]' % ("t" * 65), "write up to 64 letters"),
        ("tenants = [" + '"t",\n' * 101 + "]", "length <= 100"),
        ('currency = "EUR"', "'EUR'"),
        ("from = 2026-01-01", "Expected `datetime | null`, got `date`"),
        ("from = 2026-01-01T00:00:00", "with a timezone component"),
        ("until = 2026-01-01T00:00:00", "with a timezone component"),
        ("from = 2026-01-01T00:00:01Z", "from 2026-01-01 00:00:01.00:00 is no whole minute"),
        ("until = 2026-01-01T00:00:00.000001Z", "until .* is no whole minute"),
        ("from = 1999-12-31T23:59:00Z", "from .* is not between 2000-01-01 and 2200-01-01"),
        ("until = 2200-01-01T00:00:00Z", "until .* is not between"),
        ("from = 0001-01-01T00:00:00+14:00", "is not between"),
        (
            "from = 2026-01-01T00:00:00Z\nuntil = 2026-01-01T00:00:00Z",
            r"from 2026-01-01 00:00:00\+00:00 is not before until 2026-01-01 00:00:00\+00:00",
        ),
        ("promotion = true\nfrom = 2026-01-01T00:00:00Z", "states from and until"),
        ("promotion = true\nuntil = 2026-01-01T00:00:00Z", "states from and until"),
        ('band = "night"', "band 'night' is not in the list; there is none"),
        ('free = "trial"\n[free.t]\n[free.s]', "free 'trial' is not in the list; there is s, t"),
        ("prompt_tokens = { over = 1 }", "unknown field `over`"),
        ("prompt_tokens = { above = -1 }", ">= 0"),
        ("prompt_tokens = { above = 1, up_to = 1 }", "above 1 is not below up_to 1"),
        ("prompt_tokens = { up_to = 1000000000000001 }", "<= 1000000000000000"),
        ('batch = "yes"', "Expected `bool"),
        ('batch = false\nbatch_factor = "1/2"', "has no use where batch = false"),
        ('batch_factor = "half"', "batch_factor 'half' is what a batch pays"),
        ('batch_factor = "1/0"', "batch_factor '1/0'"),
        ('batch_factor = "0/0"', "batch_factor '0/0'"),
        ('batch_factor = "3/2"', "batch_factor '3/2'"),
        ('batch_factor = "1/10001"', "batch_factor '1/10001'"),
        ('batch_factor = "-1/2"', "batch_factor '-1/2'"),
        ("batch_factor = 0.5", "Expected `str`, got `PointNumber`"),
        ("result = 1", "result and accept_seconds go together"),
        ("accept_seconds = 1", "result and accept_seconds go together"),
        ("result = 1\naccept_seconds = 0", ">= 1"),
        ("result = 1\naccept_seconds = 31622401", "<= 31622400"),
        ("[band.b]\nday = 1", "unknown field `day`"),
        ("[band.b]\ndays = []", "length >= 1"),
        ('[band."b c"]', "band 'b c': write up to 64 letters"),
        ('[band."b c"]\nall_but = ["d"]\n[band.d]', "band 'b c': write up to 64 letters"),
        ('[band.b]\ndays = ["holidays"]', "band 'b': 'holidays' needs a calendar"),
        ('[band.b]\nexcept_days = ["workdays"]', "band 'b': 'workdays' needs a calendar"),
        ('[band.b]\ndays = ["monday"]', "band 'b': unknown days 'monday'; there is mon, tue"),
        ('[band.b]\ndays = ["mon-"]\nhours = ["x"]', "hours 'x'"),
        ('[band.b]\ndays = ["fri-friday"]', "unknown days 'fri-friday'"),
        ('[band.b]\ndays = ["fri-mon"]', "'fri-mon' runs backwards; name the days one by one"),
        ('[band.b]\nhours = ["9-12"]', "hours '9-12'; write"),
        ('[band.b]\nhours = ["24:00-24:00"]', "hours '24:00-24:00'; write"),
        ('[band.b]\nhours = ["09:00-24:01"]', "hours '09:00-24:01'"),
        ('[band.b]\nhours = ["09:60-10:00"]', "hours '09:60-10:00'"),
        ('[band.b]\nhours = ["09:00-09:00"]', "hours '09:00-09:00' are empty"),
        ('[band.b]\ndays = ["sat"]\nhours = ["22:00-06:00"]', "cross midnight belong to two days"),
        ('[band.b]\nexcept_days = ["sat"]\nhours = ["22:00-06:00"]', "cross midnight"),
        ('[band.b]\nall_but = ["c"]', "band 'c' is not in the list; there is none"),
        ('[band.b]\nall_but = ["c"]\n[band.c]\nall_but = ["d"]', "band 'c' is not in the list"),
        ('[band.b]\nall_but = ["c"]\nhours = ["09:00-10:00"]\n[band.c]', "'b': all_but stands"),
        ('[free."a b"]', "free 'a b': write up to 64 letters"),
        ("[free.a]\nhits = 1", "unknown field `hits`"),
        ("[free.a]\nhit = -1", ">= 0"),
        ("[free.a]\nhit = 1000000000000001", "<= 1000000000000000"),
        (RULE, "rule id 'a' is there twice"),
    ],
)
def test_bad_rules(more, says) -> None:
    with pytest.raises(BadTariff, match=says):
        rule_of(more)


@pytest.mark.parametrize(
    ("more", "attribute", "value"),
    [
        ("from = 2000-01-01T00:00:00Z", "from_minute", 15_778_080),
        ("until = 2199-12-31T23:59:00Z", "until_minute", 120_968_639),
        ("prompt_tokens = { above = 0, up_to = 1 }", "above", 0),
        ("prompt_tokens = { up_to = 0 }", "up_to", 0),
        ("batch = false", "for_batch", False),
        ('title = "%s"' % ("t" * 200), "title", "t" * 200),
        ('title = "价格"', "title", "价格"),
        ('tenants = ["%s"]' % ("t" * 64), "tenants", {"t" * 64}),
    ],
)
def test_just_possible(more, attribute, value) -> None:
    assert getattr(rule_of(more), attribute) == value


def test_factors_just_possible() -> None:
    for text, pair in {"10000/10000": (10_000, 10_000), "0/1": (0, 1), "1/1": (1, 1)}.items():
        found = rule_of(f'batch_factor = "{text}"').prices
        assert (found.batch_numerator, found.batch_denominator) == pair
    assert rule_of('batch = false\nbatch_factor = "1/1"').for_batch is False


@pytest.mark.parametrize("name", ["*", "deepseek-*", "org/Model:4b", "模型", "m" * 200])
def test_names_of_models(name) -> None:
    assert read(HEAD + RULE.replace('"m"', f'"{name}"')).rules[0].models == (name,)


@pytest.mark.parametrize("name", ["", "a b", "a*b", "**", "*a", "a\\u0000", "a\\u202e", "m" * 201])
def test_names_that_no_model_has(name) -> None:
    with pytest.raises(BadTariff, match="write a name without spaces, or the beginning"):
        read(HEAD + RULE.replace('"m"', f'"{name}"'))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "price list: Object missing required field `currency`"),
        (HEAD, "missing required field `rule`"),
        (f"{HEAD}rule = []", "length >= 1"),
        (f"{HEAD}rule = [1]", r"Expected `object`, got `int` - at `\$.rule\[0\]`"),
        (f'{HEAD}[[rule]]\nid = "x"', r"rule 1 \('x'\): Object missing required field `models`"),
        (f"{HEAD}[[rule]]", r"rule 1 \('no id'\): Object missing required field `id`"),
        (f"{HEAD}{RULE}{RULE}hit = 3", "not TOML: .*overwrite"),
        (f"{HEAD}{RULE}[[rule]]\nid = 5", r"rule 2 \('5'\): Expected `str`"),
        (HEAD + RULE.replace('"a"', '"a b"'), r"rule 1 \('a b'\): id 'a b': write up to 64"),
        (HEAD + RULE.replace('["m"]', "[]"), "length >= 1"),
        ('currency = "yuan"\n' + RULE, "'yuan'"),
        (f"zone = 1\n{HEAD}{RULE}", "unknown field `zone`"),
        (f'title = "a\\tb"\n{HEAD}{RULE}', "title .* one line"),
        (f'calendar = "mars"\n{HEAD}{RULE}', "no calendar 'mars'"),
        (f"calendar = 5\n{HEAD}{RULE}", "price list: Expected `str | object | null`"),
        (f"{HEAD}{RULE}" + "#" * 501, "line 8 has 501 characters; break it at 500"),
        ("#\n" * (MAX_TEXT_BYTES // 2) + "#", "262145 bytes; at most 262144 are read"),
        ("é\n" * (MAX_TEXT_BYTES // 3) + "#\n", "262145 bytes"),
        ("x = 1 1", "not TOML: "),
        ("\ud800", "not UTF-8: half a character at 0"),
        ("a = " + "[\n" * 100_000, "not TOML: "),
        (HEAD + "".join(RULE.replace('"a"', f'"{n}"') for n in range(1001)), "length <= 1000"),
        (HEAD + RULE + "".join(f"[band.b{n}]\n" for n in range(101)), "length <= 100"),
        (HEAD + RULE + "".join(f"[free.f{n}]\n" for n in range(101)), "length <= 100"),
    ],
)
def test_bad_lists(text, says) -> None:
    with pytest.raises(BadTariff, match=says):
        read(text)


def test_bounds_just_possible() -> None:
    text = HEAD + RULE + "#" * 500 + "\n"
    text += "#\n" * ((MAX_TEXT_BYTES - len(text)) // 2)
    assert read(text.ljust(MAX_TEXT_BYTES, "\n")).rules
    rules = "".join(RULE.replace('"a"', f'"{n}"') for n in range(1000))
    assert len(read(HEAD + rules).rules) == 1000


@pytest.mark.parametrize(
    "zone",
    ["Mars", "Asia", "", "../etc/passwd", "/etc/localtime", "Asia/Shanghai\\u0000", "a" * 99],
)
def test_unknown_zones(zone) -> None:
    with pytest.raises(BadTariff, match=r"time_zone .* is not known here; .*tzdata"):
        read(f'time_zone = "{zone}"\n{HEAD}{RULE}')


def test_known_zones() -> None:
    for zone in ("UTC", "Etc/GMT-8", "America/Argentina/Buenos_Aires"):
        assert read(f'time_zone = "{zone}"\n{HEAD}{RULE}').zone.key == zone


@given(st.data())
def test_damaged_lists_are_refused_and_nothing_else(data) -> None:
    """Shipped lists with pieces cut out, doubled or replaced: BadTariff or a tariff."""
    text = shipped(data.draw(st.sampled_from(SHIPPED)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        piece = data.draw(
            st.sampled_from(["", text[start:end] * 2, "[", '"', "=", "\n", "-1", "é"])
        )
        text = text[:start] + piece + text[end:]
    with contextlib.suppress(BadTariff):
        Tariff.parse(text).problems()
