"""Which days are public holidays, and which weekend days are worked instead: dated data.

A calendar knows whole years and nothing of others; it never guesses.  `china` ships with tribody,
with the official notices named in the file; a price list may extend it or bring its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from importlib import resources
from typing import Literal

import msgspec

from tribody.billing.toml_text import converted, parsed
from tribody.core.errors import BadTariff

DayKind = Literal["plain", "holiday", "make-up"]
DAY_KINDS: tuple[DayKind, ...] = ("plain", "holiday", "make-up")

SHIPPED = ("china",)
FIRST_YEAR, LAST_YEAR = 2000, 2199
MAX_YEARS = 50
SATURDAY = 5


class HolidayFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One point of a notice: days off, the last one included, and the days worked for them."""

    first: date
    last: date
    name: str = ""
    workdays: tuple[date, ...] = ()


class YearFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    source: str
    holiday: tuple[HolidayFile, ...] = ()


class CalendarFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a calendar's file holds, or the table `calendar` of a price list."""

    year: tuple[YearFile, ...]
    extends: str = ""


@dataclass(frozen=True)
class Calendar:
    """Every day of `years` is a holiday, a make-up workday or plain."""

    name: str
    years: frozenset[int]
    holidays: frozenset[date]
    workdays: frozenset[date]

    def kind(self, day: date) -> DayKind | None:
        """None if the day's year is not in the calendar."""
        if day.year not in self.years:
            return None
        if day in self.holidays:
            return "holiday"
        return "make-up" if day in self.workdays else "plain"


def shipped(name: str) -> Calendar:
    """A calendar that comes with tribody.  Raises: BadTariff if there is none of that name."""
    if name not in SHIPPED:
        raise BadTariff(f"no calendar {name[:64]!r}; there is {', '.join(SHIPPED)}")
    file = resources.files("tribody.billing") / "calendars" / f"{name}.toml"
    text = file.read_text("utf-8")
    return built(name, converted(parsed(text), CalendarFile, f"calendar {name}"))


def built(name: str, file: CalendarFile) -> Calendar:
    """A calendar of its file.  Raises: BadTariff on years or days that cannot be."""
    known = shipped(file.extends) if file.extends else Calendar(name, *[frozenset()] * 3)
    years, holidays, workdays = set(known.years), set(known.holidays), set(known.workdays)
    for year in file.year:
        _check_year(year.number, years)
        for holiday in year.holiday:
            days_off = _days(holiday, year.number)
            _add(days_off, holidays, year.number)
            _add(holiday.workdays, workdays, year.number)
        years.add(year.number)
    if len(years) > MAX_YEARS:
        raise BadTariff(f"calendar {name}: {len(years)} years; at most {MAX_YEARS} are read")
    for day in sorted(workdays):
        if day.weekday() < SATURDAY:
            raise BadTariff(f"calendar {name}: workday {day} is no Saturday or Sunday")
        if day in holidays:
            raise BadTariff(f"calendar {name}: {day} is both a holiday and a workday")
    return Calendar(name, frozenset(years), frozenset(holidays), frozenset(workdays))


def _check_year(number: int, years: set[int]) -> None:
    if not FIRST_YEAR <= number <= LAST_YEAR:
        raise BadTariff(f"calendar year {number} is not in {FIRST_YEAR} to {LAST_YEAR}")
    if number in years:
        raise BadTariff(f"calendar year {number} is there already; a year is stated once")


def _days(holiday: HolidayFile, year: int) -> list[date]:
    num_days = (holiday.last - holiday.first).days + 1
    if not 0 < num_days <= 366:
        raise BadTariff(f"holiday of {year}: {holiday.first} to {holiday.last} is no range of days")
    return [holiday.first + timedelta(days=n) for n in range(num_days)]


def _add(days: list[date] | tuple[date, ...], to: set[date], year: int) -> None:
    for day in days:
        if day.year != year:
            raise BadTariff(f"calendar year {year}: {day} lies in another year; state it there")
        if day in to:
            raise BadTariff(f"calendar year {year}: {day} is stated twice")
        to.add(day)
