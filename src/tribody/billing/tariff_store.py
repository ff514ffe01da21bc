"""Price lists in the ledger: every text that was ever used is kept, named by its digest."""

from __future__ import annotations

from typing import cast

import msgspec

from tribody.billing.entries import Entry, append
from tribody.billing.tariffs import Tariff
from tribody.core.errors import BadTariff
from tribody.storage.database import Database
from tribody.storage.revisions import raise_revision


class TariffEntry(msgspec.Struct, frozen=True, kw_only=True):
    """From here on requests are priced by this list.  `who` is whoever ordered it."""

    digest: str
    who: str


class TariffUse(TariffEntry, frozen=True, kw_only=True):
    """The same, and since when."""

    at_ms: int


_decoder = msgspec.json.Decoder(TariffEntry)


def use_tariff(db: Database, text: str, at_ms: int, who: str) -> Tariff:
    """Price requests by this list from now on.  Nothing changes if they are already.

    Raises: BadTariff when it cannot be read, or leaves requests unpriced.
    """
    tariff = usable_tariff(text)
    put_in(db, tariff, at_ms, who)
    return tariff


def usable_tariff(text: str) -> Tariff:
    """A list that may be put in.  A long one takes seconds to check, so do it before the database
    is anybody's.  Raises: as `use_tariff`.
    """
    tariff = Tariff.parse(text)
    errors = [problem.text for problem in tariff.problems() if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BadTariff(f"{errors[0]}{more}; `tribody tariff check` lists them all")
    return tariff


def put_in(db: Database, tariff: Tariff, at_ms: int, who: str) -> None:
    """As `use_tariff`, of a list that is usable."""
    if _current_digest(db) == tariff.digest:
        return
    sequence = append(
        db, Entry("tariff", at_ms, "", "", TariffEntry(digest=tariff.digest, who=who))
    )
    if not db.rows("SELECT 1 FROM tariffs WHERE digest = ?", (tariff.digest,)):
        db.run("INSERT INTO tariffs (digest, text) VALUES (?, ?)", (tariff.digest, tariff.text))
    db.run("INSERT INTO tariff_uses (sequence, digest) VALUES (?, ?)", (sequence, tariff.digest))
    raise_revision(db, "tariffs")


def current_tariff(db: Database) -> Tariff | None:
    """The list that requests are priced by; None before the first one."""
    digest = _current_digest(db)
    return None if digest is None else stored_tariff(db, digest)


def stored_tariff(db: Database, digest: str) -> Tariff | None:
    """One that was ever used; None when it was not.  Raises: BadTariff: no longer readable."""
    text = tariff_text(db, digest)
    return None if text is None else Tariff.parse(text)


def tariff_text(db: Database, digest: str) -> str | None:
    """As `stored_tariff`, as it was written."""
    rows = db.rows("SELECT text FROM tariffs WHERE digest = ?", (digest,))
    return str(rows[0][0]) if rows else None


def tariff_uses(db: Database) -> list[TariffUse]:
    """Every list that was ever put in, the first one first."""
    rows = db.rows(
        "SELECT entries.at_ms, entries.detail FROM tariff_uses "
        "JOIN entries ON entries.sequence = tariff_uses.sequence ORDER BY tariff_uses.sequence"
    )
    entries = [(cast(int, at_ms), _decoder.decode(str(detail))) for at_ms, detail in rows]
    return [TariffUse(digest=one.digest, who=one.who, at_ms=at_ms) for at_ms, one in entries]


def _current_digest(db: Database) -> str | None:
    rows = db.rows("SELECT digest FROM tariff_uses ORDER BY sequence DESC LIMIT 1")
    return str(rows[0][0]) if rows else None
