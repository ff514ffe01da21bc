"""Price lists in the ledger: every text that was ever used is kept, named by its digest."""

from __future__ import annotations

import msgspec

from tribody.billing.entries import Entry, append
from tribody.billing.tariffs import Tariff
from tribody.core.errors import BadTariff
from tribody.storage.database import Database
from tribody.storage.revisions import raise_revision


class TariffUse(msgspec.Struct, frozen=True, kw_only=True):
    """From here on requests are priced by this list.  `who` is whoever ordered it."""

    digest: str
    who: str


def use_tariff(db: Database, text: str, at_ms: int, who: str) -> Tariff:
    """Price requests by this list from now on.  Nothing changes if they are already.

    Raises: BadTariff when it cannot be read, or leaves requests unpriced.
    """
    tariff = Tariff.parse(text)
    errors = [problem.text for problem in tariff.problems() if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BadTariff(f"{errors[0]}{more}; `tribody tariff check` lists them all")
    if _current_digest(db) == tariff.digest:
        return tariff
    sequence = append(db, Entry("tariff", at_ms, "", "", TariffUse(digest=tariff.digest, who=who)))
    if not db.rows("SELECT 1 FROM tariffs WHERE digest = ?", (tariff.digest,)):
        db.run("INSERT INTO tariffs (digest, text) VALUES (?, ?)", (tariff.digest, text))
    db.run("INSERT INTO tariff_uses (sequence, digest) VALUES (?, ?)", (sequence, tariff.digest))
    raise_revision(db, "tariffs")
    return tariff


def current_tariff(db: Database) -> Tariff | None:
    """The list that requests are priced by; None before the first one."""
    digest = _current_digest(db)
    return None if digest is None else stored_tariff(db, digest)


def stored_tariff(db: Database, digest: str) -> Tariff | None:
    """One that was ever used; None when it was not.  Raises: BadTariff: no longer readable."""
    rows = db.rows("SELECT text FROM tariffs WHERE digest = ?", (digest,))
    return Tariff.parse(str(rows[0][0])) if rows else None


def _current_digest(db: Database) -> str | None:
    rows = db.rows("SELECT digest FROM tariff_uses ORDER BY sequence DESC LIMIT 1")
    return str(rows[0][0]) if rows else None
