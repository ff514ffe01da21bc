"""What a check is: a function over the server under test, with what it is called and needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tribody.conformance.target import Need, Target
from tribody.core.api_settings import ProfileName

BOTH: tuple[ProfileName, ...] = ("2025", "2026")
ONLY_2025: tuple[ProfileName, ...] = ("2025",)
ONLY_2026: tuple[ProfileName, ...] = ("2026",)


@dataclass(frozen=True)
class Check:
    """`run` raises Failed or Skipped, or returns.  `id` begins with its section's name."""

    id: str
    title: str
    run: Callable[[Target], None]
    needs: tuple[Need, ...] = ()
    profiles: tuple[ProfileName, ...] = BOTH


@dataclass(frozen=True)
class Section:
    """Checks of one part of the contract, run in this order."""

    name: str
    title: str
    checks: tuple[Check, ...]
