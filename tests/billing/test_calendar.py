"""The Chinese calendar against two others' data, and what a calendar refuses."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tribody.billing.calendar import CalendarFile, built, shipped
from tribody.billing.toml_text import converted, parsed
from tribody.core.errors import BadTariff

CHINA = shipped("china")

# Days off from Monday to Friday, and weekend days worked, as PyPI's chinesecalendar 1.11.0 and
# holidays 0.109 have them (`python -c "import holidays; print(holidays.CN(years=2026))"`); both
# were compared with the calendar day by day when it was written.
WEEKDAYS_OFF = [
    "2025-01-01",
    "2025-01-28",
    "2025-01-29",
    "2025-01-30",
    "2025-01-31",
    "2025-02-03",
    "2025-02-04",
    "2025-04-04",
    "2025-05-01",
    "2025-05-02",
    "2025-05-05",
    "2025-06-02",
    "2025-10-01",
    "2025-10-02",
    "2025-10-03",
    "2025-10-06",
    "2025-10-07",
    "2025-10-08",
    "2026-01-01",
    "2026-01-02",
    "2026-02-16",
    "2026-02-17",
    "2026-02-18",
    "2026-02-19",
    "2026-02-20",
    "2026-02-23",
    "2026-04-06",
    "2026-05-01",
    "2026-05-04",
    "2026-05-05",
    "2026-06-19",
    "2026-09-25",
    "2026-10-01",
    "2026-10-02",
    "2026-10-05",
    "2026-10-06",
    "2026-10-07",
]
WEEKEND_DAYS_WORKED = [
    "2025-01-26",
    "2025-02-08",
    "2025-04-27",
    "2025-09-28",
    "2025-10-11",
    "2026-01-04",
    "2026-02-14",
    "2026-02-28",
    "2026-05-09",
    "2026-09-20",
    "2026-10-10",
]


def test_china_agrees_with_other_peoples_calendars() -> None:
    days = [date(2025, 1, 1) + timedelta(days=n) for n in range(730)]
    weekdays_off = [str(d) for d in days if CHINA.kind(d) == "holiday" and d.weekday() < 5]
    assert weekdays_off == WEEKDAYS_OFF
    assert [str(d) for d in days if CHINA.kind(d) == "make-up"] == WEEKEND_DAYS_WORKED
    assert sum(CHINA.kind(d) == "holiday" for d in days) == 28 + 33


def test_weekend_days_within_a_holiday_are_holidays() -> None:
    assert CHINA.kind(date(2026, 10, 3)) == "holiday"
    assert CHINA.kind(date(2026, 10, 11)) == "plain"


def test_years_without_a_notice_are_unknown() -> None:
    assert CHINA.years == {2025, 2026}
    assert CHINA.kind(date(2024, 12, 31)) is None
    assert CHINA.kind(date(2025, 1, 1)) == "holiday"
    assert CHINA.kind(date(2026, 12, 31)) == "plain"
    assert CHINA.kind(date(2027, 1, 1)) is None


def calendar(text: str):
    return built("ours", converted(parsed(text), CalendarFile, "calendar"))


def test_a_calendar_is_extended_by_a_year() -> None:
    found = calendar(
        """
        extends = "china"
        [[year]]
        number = 2027
        source = "made up"
        [[year.holiday]]
        first = 2027-02-05
        last = 2027-02-07
        workdays = [2027-02-13, 2027-02-14]
        """
    )
    assert found.name == "ours"
    assert found.years == {2025, 2026, 2027}
    assert found.kind(date(2025, 1, 1)) == "holiday"
    assert found.kind(date(2026, 10, 10)) == "make-up"
    assert [str(d) for d in sorted(found.holidays) if d.year == 2027] == [
        "2027-02-05",
        "2027-02-06",
        "2027-02-07",
    ]
    assert found.kind(date(2027, 2, 13)) == found.kind(date(2027, 2, 14)) == "make-up"


YEAR = '[[year]]\nnumber = {}\nsource = "s"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing required field `year`"),
        ("x = 1\nyear = []", "unknown field `x`"),
        ("[[year]]\nnumber = 2027", "missing required field `source`"),
        (YEAR.format(2027) + "[[year.holiday]]\nfirst = 2027-01-01", "required field `last`"),
        (YEAR.format(2027) + "[[year.holiday]]\nfirst = 1\nlast = 2027-01-01", r"year\[0\]"),
        ('extends = "mars"\n' + YEAR.format(2027), "no calendar 'mars'; there is china"),
        ('extends = "china"\n' + YEAR.format(2026), "2026 is there already"),
        (YEAR.format(2027) * 2, "2027 is there already"),
        (YEAR.format(1999), "1999 is not in 2000 to 2199"),
        (YEAR.format(2200), "2200 is not in 2000 to 2199"),
        ("".join(YEAR.format(n) for n in range(2000, 2051)), "51 years; at most 50"),
    ],
)
def test_bad_years(text, says) -> None:
    with pytest.raises(BadTariff, match=says):
        calendar(text)


@pytest.mark.parametrize(
    ("holiday", "says"),
    [
        ("first = 2027-01-02\nlast = 2027-01-01", "2027-01-02 to 2027-01-01 is no range"),
        ("first = 2027-01-02\nlast = 9999-01-01", "is no range"),
        ("first = 2026-12-31\nlast = 2027-01-01", "2027: 2026-12-31 lies in another year"),
        ("first = 2027-12-31\nlast = 2028-01-01", "2028-01-01 lies in another year"),
        ("first = 2027-01-01\nlast = 2027-01-01\nworkdays = [2028-01-01]", "another year"),
        ("first = 2027-01-01\nlast = 2027-01-01\nworkdays = [2027-01-08]", "is no Saturday"),
        ("first = 2027-01-01\nlast = 2027-01-02\nworkdays = [2027-01-02]", "both a holiday and"),
        ("first = 2027-01-01\nlast = 2027-01-01\nworkdays = [2027-01-02, 2027-01-02]", "twice"),
        (
            "first = 2027-01-01\nlast = 2027-01-02\n[[year.holiday]]\n"
            "first = 2027-01-02\nlast = 2027-01-02",
            "2027-01-02 is stated twice",
        ),
    ],
)
def test_bad_holidays(holiday, says) -> None:
    with pytest.raises(BadTariff, match=says):
        calendar(YEAR.format(2027) + "[[year.holiday]]\n" + holiday)


def test_the_first_and_the_last_years_that_can_be() -> None:
    found = calendar(YEAR.format(2000) + YEAR.format(2199))
    assert found.years == {2000, 2199}
    assert calendar("".join(YEAR.format(n) for n in range(2000, 2050))).years
    whole = "[[year.holiday]]\nfirst = 2028-01-01\nlast = 2028-12-31"
    assert len(calendar(YEAR.format(2028) + whole).holidays) == 366
