"""Days and months of Asia/Shanghai, which caps and reports go by.

The zone has been eight hours ahead of UTC, without summer time, since 1991; so its days are counted
with integers, for every instant from then on.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache

DAY_MS = 86_400_000
AHEAD_MS = 8 * 3_600_000
EPOCH = date(1970, 1, 1).toordinal()


def day(at_ms: int) -> str:
    """The day that an instant belongs to, such as 2026-11-22."""
    return _names(_day_number(at_ms))[0]


def month(at_ms: int) -> str:
    """Its month, such as 2026-11."""
    return _names(_day_number(at_ms))[1]


def day_name(number: int) -> str:
    """The day with this number, counted from 1970-01-01."""
    return _names(number)[0]


def day_end_ms(at_ms: int) -> int:
    """The first instant of the next day."""
    return (_day_number(at_ms) + 1) * DAY_MS - AHEAD_MS


def month_end_ms(at_ms: int) -> int:
    """The first instant of the next month."""
    return _month_start_ms(_date(_day_number(at_ms)), 1)


def month_bounds_ms(name: str) -> tuple[int, int]:
    """[first, last) of a month such as 2026-11.  Raises: ValueError when it is none."""
    first = date.fromisoformat(f"{name}-01")
    return _month_start_ms(first, 0), _month_start_ms(first, 1)


def day_bounds_ms(name: str) -> tuple[int, int]:
    """[first, last) of a day such as 2026-11-22.  Raises: ValueError when it is none."""
    start_ms = (date.fromisoformat(name).toordinal() - EPOCH) * DAY_MS - AHEAD_MS
    return start_ms, start_ms + DAY_MS


def _day_number(at_ms: int) -> int:
    return (at_ms + AHEAD_MS) // DAY_MS


def _date(day_number: int) -> date:
    return date.fromordinal(EPOCH + day_number)


@lru_cache(maxsize=64)
def _names(day_number: int) -> tuple[str, str]:
    text = _date(day_number).isoformat()
    return text, text[:7]


def _month_start_ms(within: date, months_on: int) -> int:
    months = within.year * 12 + within.month - 1 + months_on
    first = date(months // 12, months % 12 + 1, 1)
    return (first.toordinal() - EPOCH) * DAY_MS - AHEAD_MS
