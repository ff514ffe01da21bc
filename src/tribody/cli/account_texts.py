"""What people type for limits, instants, days and months, and how these are shown again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import msgspec

from tribody.billing.money import parse_micro, show_micro
from tribody.billing.periods import DAY_MS, day, day_bounds_ms, month_bounds_ms
from tribody.cli.account_flags import Days
from tribody.core.errors import BadConfig
from tribody.core.principal import Limits

CHINA = timezone(timedelta(hours=8))
DEFAULT_DAYS = 30
LIMIT_NAMES = {
    name.replace("micro", "money").replace("_", "-"): name for name in Limits.__struct_fields__
}
COUNT = re.compile(r"(\d{1,15})([kM]?)", re.ASCII)
SPAN = re.compile(r"(\d{1,6})([dh])", re.ASCII)
MAX_SPAN_HOURS = 24 * 36_525  # a hundred years
UNITS = {"": 1, "k": 1000, "M": 1_000_000}


def parse_limits(texts: Sequence[str], before: Limits) -> Limits:
    """`before` with `tokens-per-day=2M` and the like.  Raises: BadConfig."""
    given: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        field = LIMIT_NAMES.get(name.strip().replace("_", "-"))
        if field is None or not equals:
            raise BadConfig(
                f"--limit {text[:80]!r} is not NAME=NUMBER with a name of {', '.join(LIMIT_NAMES)}"
            )
        if field in given:
            raise BadConfig(f"--limit {name} is given twice")
        if field.startswith("micro"):
            given[field] = parse_micro(f"--limit {name}", value)
        else:
            given[field] = _count(f"--limit {name}", value)
    return msgspec.structs.replace(before, **given)


def _count(option: str, text: str) -> int:
    found = COUNT.fullmatch(text.strip())
    if found is None:
        raise BadConfig(
            f"{option} {text[:40]!r} is not a whole number; write it as 600, 100k or 2M (thousands "
            "and millions)"
        )
    return int(found[1]) * UNITS[found[2]]


def show_limits(limits: Limits) -> str:
    """`concurrency=8, money-per-day=100.00`; empty without any."""
    shown = []
    for name, field in LIMIT_NAMES.items():
        value = getattr(limits, field)
        if value:
            text = show_micro(value) if field.startswith("micro") else f"{value:,}"
            shown.append(f"{name}={text}")
    return ", ".join(shown)


def parse_expiry(text: str, now_ms: int) -> int:
    """`90d` or `12h` from now, where a day begins, or an instant.  Raises: BadConfig."""
    span = SPAN.fullmatch(text.strip())
    if span:
        hours = int(span[1]) * (24 if span[2] == "d" else 1)
        if hours > MAX_SPAN_HOURS:
            raise BadConfig(f"--expires {text} is above the limit of {MAX_SPAN_HOURS // 24}d")
        return now_ms + hours * 3_600_000
    return parse_instant("--expires", text, "90d, 12h, ")


def parse_instant(option: str, text: str, others: str = "") -> int:
    """An instant, or where a day begins in Shanghai.  Raises: BadConfig."""
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadConfig(
            f"{option} {text[:40]!r} is not a time; write {others}2027-01-01 or "
            "2027-01-01T09:00:00+08:00"
        ) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=CHINA)
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def show_time(at_ms: int | None) -> str:
    """`2026-11-22 17:05:09` in Shanghai."""
    if at_ms is None:
        return ""
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return f"{instant.astimezone(CHINA):%Y-%m-%d %H:%M:%S}"


def parse_month(text: str) -> tuple[int, int]:
    """[first, last) in milliseconds.  Raises: BadConfig."""
    try:
        return month_bounds_ms(text)
    except ValueError:
        raise BadConfig(f"--month {text[:40]!r} is not a month; write 2026-11") from None


def parse_day(option: str, text: str) -> tuple[int, int]:
    """[first, last) in milliseconds.  Raises: BadConfig."""
    try:
        return day_bounds_ms(text)
    except ValueError:
        raise BadConfig(f"{option} {text[:40]!r} is not a day; write 2026-11-22") from None


def parse_days(days: Days, now_ms: int) -> tuple[int, int]:
    """[first, last) in milliseconds; without any the last 30 days, today among them.

    Raises: BadConfig.
    """
    if days.month is not None:
        if days.first is not None or days.last is not None:
            raise BadConfig("--month stands in place of --from and --to; leave one of them out")
        return parse_month(days.month)
    today = day(now_ms)
    last_ms = parse_day("--to", days.last or today)[1]
    if days.first is None:
        return last_ms - DEFAULT_DAYS * DAY_MS, last_ms
    first_ms = parse_day("--from", days.first)[0]
    if first_ms >= last_ms:
        raise BadConfig(f"--from {days.first} is after --to {days.last or today}; swap them")
    return first_ms, last_ms


def show_period(first_ms: int, last_ms: int) -> str:
    """`2026-11-01 to 2026-11-30`."""
    return f"{day(first_ms)} to {day(last_ms - 1)}"
