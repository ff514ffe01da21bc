"""A price list's TOML: its keys, their types and bounds, and the rules that it makes.

docs/billing.md describes the format.  What is refused here is wrong in itself; what rules say
together is `tariffs_check`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from tribody.billing.calendar import Calendar, CalendarFile, built, shipped
from tribody.billing.money import parse_micro
from tribody.billing.pricing import MILLION, Allowance
from tribody.billing.tariffs_rules import (
    ALWAYS,
    DAY_MINUTES,
    DAY_TYPES,
    Band,
    DayType,
    Prices,
    Rule,
    complement,
    merged,
)
from tribody.billing.toml_text import PointNumber, converted, parsed
from tribody.core.errors import BadConfig, BadTariff

Currency = Literal["CNY", "USD"]

MAX_RULES = 1000
MAX_NAMES = 100  # models or tenants of one rule, bands, free tiers
MAX_PRICE_MICRO = MILLION * MILLION  # one whole yuan or dollar for a single token
MAX_FACTOR = 10_000  # of a batch's fraction
MAX_ACCEPT_SECONDS = 366 * 86_400
MAX_TOKENS = 10**15  # far above any context or allowance, and exact everywhere
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
# Instants that a list may name: zones have whole minutes and one change a day at most.

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
MODEL = re.compile(r"[^\s*]{1,200}|[^\s*]{0,200}\*")
ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2}", re.ASCII)
HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))", re.ASCII)
FRACTION = re.compile(r"(\d{1,5})/(\d{1,5})", re.ASCII)

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CALENDAR_WORDS: dict[str, Callable[[DayType], bool]] = {
    "holidays": lambda day: day[1] == "holiday",
    "make-up-days": lambda day: day[1] == "make-up",
    "workdays": lambda day: day[1] == "make-up" or (day[1] == "plain" and day[0] < 5),
    "rest-days": lambda day: day[1] == "holiday" or (day[1] == "plain" and day[0] >= 5),
}


class Price(int):
    """Micro-units from what a list says in whole units: `2`, `0.04` or "0.04", exactly."""

    @classmethod
    def from_toml(cls, raw: object) -> Price:
        if isinstance(raw, PointNumber):
            raw = raw.text
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError(f"a price is a number, not {type(raw).__name__}")
        try:
            micro = parse_micro("price", str(raw))
        except BadConfig as error:
            raise ValueError(str(error)) from error
        if not 0 <= micro <= MAX_PRICE_MICRO:
            raise ValueError(f"price {raw} is not in 0 to {MAX_PRICE_MICRO // MILLION}")
        return cls(micro)


Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_NAMES)]


class BandFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    days: Names | None = None
    except_days: Names | None = None
    hours: Names | None = None
    all_but: Names | None = None


class FreeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hit: Tokens = 0
    miss: Tokens = 0
    output: Tokens = 0
    reasoning: Tokens = 0


class LengthFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    above: Tokens | None = None
    up_to: Tokens | None = None


class RuleFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    title: str = ""
    source: str = ""
    models: Names
    tenants: Names | None = None
    currency: Currency | None = None
    from_: Instant | None = msgspec.field(name="from", default=None)
    until: Instant | None = None
    band: str | None = None
    promotion: bool = False
    prompt_tokens: LengthFile | None = None
    batch: bool | None = None
    batch_factor: str = "1/1"
    hit: Price
    miss: Price
    output: Price
    reasoning: Price | None = None
    cache_storage: Price = Price(0)
    free: str | None = None
    result: Price | None = None
    accept_seconds: Annotated[int, msgspec.Meta(ge=1, le=MAX_ACCEPT_SECONDS)] | None = None


class TariffFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    currency: Currency
    rule: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(min_length=1, max_length=MAX_RULES)]
    title: str = ""
    time_zone: str = "Asia/Shanghai"
    calendar: str | CalendarFile | None = None
    band: Annotated[dict[str, BandFile], msgspec.Meta(max_length=MAX_NAMES)] = {}
    free: Annotated[dict[str, FreeFile], msgspec.Meta(max_length=MAX_NAMES)] = {}


@dataclass(frozen=True)
class PriceList:
    """A file that was read: every rule stands on its own feet."""

    title: str
    currency: str
    zone: ZoneInfo
    calendar: Calendar | None
    bands: Mapping[str, Band]
    free: Mapping[str, Allowance]
    rules: tuple[Rule, ...]


def read(text: str) -> PriceList:
    """Raises: BadTariff naming the place, the value and the remedy."""
    file = converted(parsed(text), TariffFile, "price list")
    calendar = _calendar(file.calendar)
    bands = _bands(file.band, calendar)
    free = {
        _id("free", name): Allowance(allowance_id=name, period="", **msgspec.structs.asdict(tier))
        for name, tier in file.free.items()
    }
    rules = []
    for index, raw in enumerate(file.rule, start=1):
        where = f"rule {index} ({str(raw.get('id', 'no id'))[:64]!r})"
        file_rule = converted(raw, RuleFile, where)
        try:
            rules.append(_rule(file_rule, file.currency, bands, free))
        except BadTariff as error:
            raise BadTariff(f"{where}: {error}") from error
    _check_ids(rule.rule_id for rule in rules)
    return PriceList(
        title=_line("title", file.title),
        currency=file.currency,
        zone=_zone(file.time_zone),
        calendar=calendar,
        bands=bands,
        free=free,
        rules=tuple(rules),
    )


def _rule(
    file: RuleFile, currency: str, bands: Mapping[str, Band], free: Mapping[str, Allowance]
) -> Rule:
    since, until = _minute("from", file.from_), _minute("until", file.until)
    if since is not None and until is not None and since >= until:
        raise BadTariff(f"from {file.from_} is not before until {file.until}")
    if file.promotion and (since is None or until is None):
        raise BadTariff("a promotion states from and until")
    above, up_to = _lengths(file.prompt_tokens)
    return Rule(
        rule_id=_id("id", file.id),
        title=_line("title", file.title),
        currency=file.currency or currency,
        models=tuple(_model(name) for name in file.models),
        tenants=frozenset(_id("tenant", name) for name in file.tenants or ()),
        from_minute=since,
        until_minute=until,
        band=_named("band", file.band, bands) or ALWAYS,
        is_promotion=file.promotion,
        above=above,
        up_to=up_to,
        for_batch=file.batch,
        prices=_prices(file),
        free=_named("free", file.free, free),
    )


def _prices(file: RuleFile) -> Prices:
    if (file.result is None) != (file.accept_seconds is None):
        raise BadTariff("result and accept_seconds go together: the price, and until when")
    if file.batch is False and file.batch_factor != "1/1":
        raise BadTariff("batch_factor has no use where batch = false")
    found = FRACTION.fullmatch(file.batch_factor)
    numerator, denominator = (int(found[1]), int(found[2])) if found else (1, 0)
    if not 0 <= numerator <= denominator <= MAX_FACTOR or denominator == 0:
        raise BadTariff(
            f"batch_factor {file.batch_factor[:40]!r} is what a batch pays of the price; write "
            f'a fraction such as "1/2", at most 1, of numbers up to {MAX_FACTOR}'
        )
    return Prices(
        hit=int(file.hit),  # no Price, which only this file can read or write
        miss=int(file.miss),
        output=int(file.output),
        reasoning=None if file.reasoning is None else int(file.reasoning),
        cache_storage=int(file.cache_storage),
        batch_numerator=numerator,
        batch_denominator=denominator,
        result_micro=int(file.result or 0),
        accept_seconds=file.accept_seconds or 0,
    )


def _lengths(file: LengthFile | None) -> tuple[int, int | None]:
    if file is None:
        return -1, None
    above = -1 if file.above is None else file.above
    if file.up_to is not None and above >= file.up_to:
        raise BadTariff(f"prompt_tokens: above {above} is not below up_to {file.up_to}")
    return above, file.up_to


def _calendar(named: str | CalendarFile | None) -> Calendar | None:
    if isinstance(named, CalendarFile):
        return built(named.extends or "of the list", named)
    return None if named is None else shipped(named)


def _bands(files: Mapping[str, BandFile], calendar: Calendar | None) -> dict[str, Band]:
    plain = {
        _id("band", name): _band(name, file, calendar)
        for name, file in files.items()
        if file.all_but is None
    }
    bands = dict(plain)
    for name, file in files.items():
        if file.all_but is not None:
            if file != BandFile(all_but=file.all_but):
                raise BadTariff(f"band {name!r}: all_but stands alone")
            excepted = [_named("band", other, plain) or ALWAYS for other in file.all_but]
            bands[_id("band", name)] = complement(name, excepted)
    return bands


def _band(name: str, file: BandFile, calendar: Calendar | None) -> Band:
    where = f"band {name!r}"
    spans = [_hours(where, text) for text in file.hours or ("00:00-24:00",)]
    is_every_day = file.days is None and file.except_days is None
    if not is_every_day and any(start >= end for start, end in spans):
        raise BadTariff(
            f"{where}: hours that cross midnight belong to two days; where days are named, write "
            'the part before midnight ("22:00-24:00") and the part after it ("00:00-06:00")'
        )
    minutes = merged(piece for span in spans for piece in _split(*span))
    days = frozenset(DAY_TYPES)
    if file.days is not None:
        days = _days(where, file.days, calendar)
    if file.except_days is not None:
        days -= _days(where, file.except_days, calendar)
    return Band(name, {day: minutes if day in days else () for day in DAY_TYPES})


def _days(where: str, words: Iterable[str], calendar: Calendar | None) -> frozenset[DayType]:
    days: set[DayType] = set()
    for word in words:
        if word in CALENDAR_WORDS:
            if calendar is None:
                raise BadTariff(f'{where}: {word!r} needs a calendar; write calendar = "china"')
            days.update(day for day in DAY_TYPES if CALENDAR_WORDS[word](day))
            continue
        first, _, last = word.partition("-")
        if first not in WEEKDAYS or (last or first) not in WEEKDAYS:
            known = ", ".join((*WEEKDAYS, "mon-fri", *CALENDAR_WORDS))
            raise BadTariff(f"{where}: unknown days {word[:40]!r}; there is {known}")
        start, end = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
        if start > end:
            raise BadTariff(f"{where}: {word!r} runs backwards; name the days one by one")
        days.update(day for day in DAY_TYPES if start <= day[0] <= end)
    return frozenset(days)


def _hours(where: str, text: str) -> tuple[int, int]:
    """[start, end); end <= start crosses midnight."""
    found = HOURS.fullmatch(text)
    if found is None:
        raise BadTariff(f'{where}: hours {text[:40]!r}; write "09:00-12:00", to "24:00" at most')
    start = int(found[1]) * 60 + int(found[2])
    end = int(found[3] or found[5]) * 60 + int(found[4] or found[6])
    if start == end:
        raise BadTariff(f"{where}: hours {text!r} are empty")
    return start, end


def _split(start: int, end: int) -> list[tuple[int, int]]:
    return [(start, end)] if start < end else [(start, DAY_MINUTES), (0, end)]


def _minute(key: str, instant: datetime | None) -> int | None:
    if instant is None:
        return None
    if not FIRST <= instant < LAST:
        raise BadTariff(f"{key} {instant} is not between {FIRST.date()} and {LAST.date()}")
    minutes, rest = divmod(instant - EPOCH, timedelta(minutes=1))
    if rest:
        raise BadTariff(f"{key} {instant} is no whole minute")
    return minutes


def _zone(name: str) -> ZoneInfo:
    """Raises: BadTariff also where the machine has no table of time zones."""
    try:
        if ZONE.fullmatch(name):
            return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # KeyError: ZoneInfoNotFoundError
        pass
    raise BadTariff(
        f"time_zone {name[:64]!r} is not known here; write a name such as Asia/Shanghai, and "
        "install the tzdata package if the system has no time zones"
    )


def _named(key: str, name: str | None, things: Mapping[str, Any]) -> Any:
    if name is None:
        return None
    if name not in things:
        known = ", ".join(sorted(things)[:20]) or "none"
        raise BadTariff(f"{key} {name[:64]!r} is not in the list; there is {known}")
    return things[name]


def _model(name: str) -> str:
    if MODEL.fullmatch(name) is None or not name.isprintable():
        raise BadTariff(
            f"model {name[:64]!r}: write a name without spaces, or the beginning of names and *"
        )
    return name


def _id(key: str, name: str) -> str:
    if ID.fullmatch(name) is None:
        raise BadTariff(
            f"{key} {name[:64]!r}: write up to 64 letters, digits, '.', '_' and '-', "
            "the first a letter or digit"
        )
    return name


def _line(key: str, text: str) -> str:
    if len(text) > 200 or not text.isprintable():
        raise BadTariff(f"{key} {text[:64]!r}: one line of at most 200 characters")
    return text


def _check_ids(ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for rule_id in ids:
        if rule_id in seen:
            raise BadTariff(f"rule id {rule_id!r} is there twice; charges refer to it")
        seen.add(rule_id)
