"""Amounts of money between people's writing and whole micro-units; never a float."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tribody.core.errors import BadConfig

MICRO = 1_000_000  # micro-units in one yuan or dollar
MAX_MICRO = 10**15  # a thousand million: sums of thousands of them fit the database's 64 bits
CURRENCIES = ("CNY", "USD")
AMOUNT = re.compile(r"(?P<sign>[+-]?)(?P<whole>\d{1,10})(?:\.(?P<part>\d{1,6}))?", re.ASCII)


def parse_micro(what: str, text: str) -> int:
    """`12.5` is 12,500,000.  `what` names the option or column in the error.

    Raises: BadConfig on anything but digits with at most six behind the point, or too much.
    """
    found = AMOUNT.fullmatch(text.strip())
    if found is None:
        raise BadConfig(
            f"{what} {text[:40]!r} is not an amount; write digits with at most six behind the "
            "point, such as 100 or 0.5"
        )
    micro = int(found["whole"]) * MICRO + int((found["part"] or "").ljust(6, "0"))
    if micro > MAX_MICRO:
        raise BadConfig(f"{what} {text} is above the limit of {show_micro(MAX_MICRO)}")
    return -micro if found["sign"] == "-" else micro


def show_micro(micro: int, places: int = 2) -> str:
    """`1,234.50`, and as many places as it takes to be exact: `0.000123`."""
    whole, part = divmod(abs(micro), MICRO)
    digits = f"{part:06d}".rstrip("0").ljust(places, "0")
    point = "." if digits else ""
    return f"{'-' if micro < 0 else ''}{whole:,}{point}{digits}"


def show_column(amounts: Sequence[int]) -> list[str]:
    """Of one column: all exact, all with the same number of places, so that points align."""
    places = max((_places(micro) for micro in amounts), default=2)
    return [show_micro(micro, places) for micro in amounts]


def _places(micro: int) -> int:
    return max(2, len(f"{abs(micro) % MICRO:06d}".rstrip("0")))
