"""Numbers that say when something was changed, for those who keep a copy of it in memory.

Whoever changes an area (tenants and keys, tariffs) raises its number in the same transaction;
servers look at the number and read the area again when it is another.
"""

from __future__ import annotations

from typing import Literal

from tribody.storage.database import Database

Area = Literal["tenancy", "tariffs"]


def raise_revision(db: Database, area: Area) -> None:
    """Inside the transaction that changes the area."""
    db.run(
        "INSERT INTO revision (area, number) VALUES (?, 1) "
        "ON CONFLICT (area) DO UPDATE SET number = revision.number + 1",
        (area,),
    )


def revisions(db: Database) -> dict[str, int]:
    """The number of every area that was ever changed."""
    rows = db.rows("SELECT area, number FROM revision")
    return {area: number for area, number in rows if isinstance(area, str) and type(number) is int}
