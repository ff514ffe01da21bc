"""Sizes as people write them: `2GiB`, `512M`, `32K`."""

from __future__ import annotations

import re

from tribody.core.errors import BadConfig

BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = re.compile(
    r"(?P<number>\d{1,12}(?:\.\d{1,6})?)\s*(?P<unit>[KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII
)
COUNT = re.compile(r"(?P<number>\d{1,12}(?:\.\d{1,6})?)(?P<unit>[km]?)", re.IGNORECASE | re.ASCII)


def parse_bytes(option: str, text: str) -> int:
    """`2GiB`, `2G` and `2GB` are all 2 * 2^30: memory is bought in powers of two.

    Raises: BadConfig that names `option`.
    """
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise BadConfig(f"{option} {text!r} is not a size; write it as 512MiB or 2GiB")
    return int(float(found["number"]) * BINARY[found["unit"].upper()])


def parse_count(option: str, text: str) -> int:
    """Token counts: `32K` is 32 * 1024, `32k` is 32,000 (K and M binary, k and m decimal)."""
    found = COUNT.fullmatch(text.strip())
    if found is None:
        raise BadConfig(f"{option} {text!r} is not a number; write it as 4096, 4K or 4k")
    units = {"": 1, "K": 2**10, "M": 2**20, "k": 10**3, "m": 10**6}
    return int(float(found["number"]) * units[found["unit"]])


def show_bytes(count: float) -> str:
    """`1.9 GiB`, for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
