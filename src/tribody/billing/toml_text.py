"""TOML from an operator, parsed within bounds and exactly: numbers with a point stay text."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from tribody.core.errors import BadTariff

T = TypeVar("T")

MAX_TEXT_BYTES = 256 * 1024
# A thousand rules with all their keys; a file is parsed whole, and kept in the ledger for ever.

MAX_LINE = 500
# Characters.  A dotted key takes time and memory by the square of its parts: one of 256 KiB takes
# all memory, a file full of lines of 500 characters a second.


@dataclass(frozen=True, slots=True)
class PointNumber:
    """A TOML number with a point or an exponent, as it was written."""

    text: str


def parsed(text: str) -> dict[str, Any]:
    """Raises: BadTariff if the text is too long or not TOML."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise BadTariff(f"not UTF-8: half a character at {error.start}") from error
    if size > MAX_TEXT_BYTES:
        raise BadTariff(f"the file has {size} bytes; at most {MAX_TEXT_BYTES} are read")
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE:
            raise BadTariff(f"line {number} has {len(line)} characters; break it at {MAX_LINE}")
    try:
        return tomllib.loads(text, parse_float=PointNumber)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, too many digits
        raise BadTariff(f"not TOML: {str(error)[:200]}") from error


def converted(raw: object, to: type[T], where: str) -> T:
    """`raw` as a `to`, by its types.  Raises: BadTariff that begins with `where`."""
    try:
        return msgspec.convert(raw, to, dec_hook=_custom)
    except msgspec.ValidationError as error:
        raise BadTariff(f"{where}: {str(error)[:300]}") from error


def _custom(to: type, raw: object) -> object:
    made: object = to.from_toml(raw)  # type: ignore[attr-defined]
    return made
