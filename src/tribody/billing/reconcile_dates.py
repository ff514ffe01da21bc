"""Days and months of a bill: which calendar they are of, and how they are written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

CHINA_MINUTES = 480
LONGEST = timedelta(hours=25)
MONTH = re.compile(r"(\d{4})[-/]?(\d{2})", re.ASCII)
DAY = re.compile(r"(\d{4})(?:(\d{2})(\d{2})|([-/])(\d{1,2})\4(\d{1,2}))", re.ASCII)
UNIX = re.compile(r"\d{10}(\d{3})?", re.ASCII)


class DateError(Exception):
    """A date that cannot be read, or does not go with the others."""


class Zone:
    """Offset from UTC of the days of one bill: given, or from the first row that tells."""

    def __init__(self, offset_minutes: int | None) -> None:
        self._minutes = offset_minutes
        self._is_given = offset_minutes is not None
        self.by_month: bool | None = None

    @property
    def minutes(self) -> int:
        return CHINA_MINUTES if self._minutes is None else self._minutes

    def period(self, text: str, end: str | None, *, day_is_utc: bool) -> str:
        """`2026-11-22` of an instant or a date, `2026-11` of a month.  Raises: DateError."""
        found = MONTH.fullmatch(text)
        if found and 1 <= int(found[2]) <= 12:
            self._is_by_month(True, text)
            return f"{found[1]}-{found[2]}"
        self._is_by_month(False, text)
        date = self._date(text)
        if date is not None:
            if day_is_utc:
                self._is_at(0, text)
            return date
        begin = self._instant(text)
        if end is not None and self._date(end) is None and self._instant(end) - begin > LONGEST:
            raise DateError(f"{text} to {end} is more than a day; export the bill by days")
        return begin.astimezone(timezone(timedelta(minutes=self.minutes))).date().isoformat()

    def _date(self, text: str) -> str | None:
        found = DAY.fullmatch(text)
        if found is None:
            return None
        try:
            month, day = found[2] or found[5], found[3] or found[6]
            return datetime(int(found[1]), int(month), int(day)).date().isoformat()
        except ValueError:
            raise DateError(f"{text!r} is not a day of the calendar") from None

    def _instant(self, text: str) -> datetime:
        unix = UNIX.fullmatch(text)
        if unix:
            return datetime.fromtimestamp(int(text) / (1000 if unix[1] else 1), UTC)
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            raise DateError(
                f"{text[:40]!r} is not a date; write 2026-11-22, 2026-11 or "
                "2026-11-22T00:00:00+08:00"
            ) from None
        offset = instant.utcoffset()
        if offset is None:
            return instant.replace(tzinfo=timezone(timedelta(minutes=self.minutes)))
        if self._minutes is None:
            self._minutes = int(offset.total_seconds()) // 60
        return instant

    def _is_by_month(self, by_month: bool, text: str) -> None:
        if self.by_month not in (None, by_month):
            raise DateError(f"{text[:40]!r}: some rows are of days and some of months")
        self.by_month = by_month

    def _is_at(self, minutes: int, text: str) -> None:
        if self._minutes is None:
            self._minutes = minutes
        elif self._minutes != minutes and not self._is_given:
            raise DateError(
                f"{text} is a day of UTC, others are of UTC{self._minutes / 60:+g} hours; "
                "reconcile the files one by one, or say --utc-offset"
            )
