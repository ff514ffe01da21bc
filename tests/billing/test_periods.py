"""Days and months of Shanghai, against the zone itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tribody.billing import periods

SHANGHAI = ZoneInfo("Asia/Shanghai")


def instant(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2025-12-31T23:59:59.999+08:00", "2025-12-31"),
        ("2026-01-01T00:00:00+08:00", "2026-01-01"),
        ("2025-12-31T16:00:00+00:00", "2026-01-01"),
        ("2025-12-31T15:59:59.999+00:00", "2025-12-31"),
        ("2024-02-28T16:00:00+00:00", "2024-02-29"),
        ("2024-02-29T15:59:59.999+00:00", "2024-02-29"),
        ("2024-02-29T16:00:00+00:00", "2024-03-01"),
        ("2026-02-28T16:00:00+00:00", "2026-03-01"),
        ("2026-06-30T20:00:00+00:00", "2026-07-01"),
        ("1970-01-01T00:00:00+00:00", "1970-01-01"),
    ],
)
def test_days_change_at_midnight_in_shanghai(text, day):
    assert periods.day(instant(text)) == day
    assert periods.month(instant(text)) == day[:7]


def test_every_hour_of_five_years_is_in_the_zone_s_own_day():
    start = datetime(2023, 12, 31, 15, 59, 59, 999_000, UTC)
    for hour in range(0, 5 * 366 * 24, 7):
        at = start + timedelta(hours=hour)
        at_ms = instant(at.isoformat())
        assert periods.day(at_ms) == at.astimezone(SHANGHAI).date().isoformat()


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("2026-11", "2026-11-01T00:00+08:00", "2026-12-01T00:00+08:00"),
        ("2026-12", "2026-12-01T00:00+08:00", "2027-01-01T00:00+08:00"),
        ("2024-02", "2024-02-01T00:00+08:00", "2024-03-01T00:00+08:00"),
        ("2025-02", "2025-02-01T00:00+08:00", "2025-03-01T00:00+08:00"),
    ],
)
def test_bounds_of_months(name, first, last):
    bounds = periods.month_bounds_ms(name)
    assert bounds == (instant(first), instant(last))
    for at_ms in (bounds[0], bounds[1] - 1):
        assert periods.month(at_ms) == name
        assert periods.month_end_ms(at_ms) == bounds[1]


def test_bounds_of_days():
    bounds = periods.day_bounds_ms("2024-02-29")
    assert bounds == (instant("2024-02-29T00:00+08:00"), instant("2024-03-01T00:00+08:00"))
    for at_ms in (bounds[0], bounds[1] - 1):
        assert periods.day(at_ms) == "2024-02-29"
        assert periods.day_end_ms(at_ms) == bounds[1]
    assert periods.day_name((bounds[0] + periods.AHEAD_MS) // periods.DAY_MS) == "2024-02-29"


@pytest.mark.parametrize("name", ["2026-13", "2026", "november", "2026-1"])
def test_a_month_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=r".+"):
        periods.month_bounds_ms(name)
