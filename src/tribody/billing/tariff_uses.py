"""Which tariff is in use, and which were: their texts are kept for good, by digest.

A tariff is used from the moment it is put in until another is; a request keeps the prices that it
was admitted with.
"""

from __future__ import annotations

import msgspec

from tribody.billing.entries import Entry, append
from tribody.billing.tariffs import Tariff
from tribody.core.errors import BadTariff
from tribody.storage.database import Database
from tribody.storage.revisions import raise_revision


class TariffUse(msgspec.Struct, frozen=True):
    """One use, as it stands in its entry: from `at_ms` on, put in by `who`."""

    digest: str
    at_ms: int
    who: str


_decoder = msgspec.json.Decoder(TariffUse)


def use_tariff(db: Database, text: str, at_ms: int, who: str) -> Tariff:
    """Price everything that is admitted from now on by this text.

    The one that is in use already is not put in twice.
    Raises: BadTariff when it is none, or has errors: then the one before stays.
    """
    tariff = Tariff.parse(text)
    errors = [problem for problem in tariff.problems() if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BadTariff(f"the tariff has errors: {errors[0].text}{more}; mend them")
    uses = tariff_uses(db)
    if uses and uses[-1].digest == tariff.digest:
        return tariff
    known = db.rows("SELECT digest FROM tariffs WHERE digest = ?", (tariff.digest,))
    if not known:
        db.run("INSERT INTO tariffs (digest, text) VALUES (?, ?)", (tariff.digest, text))
    use = TariffUse(tariff.digest, at_ms, who)
    sequence = append(db, Entry("tariff", at_ms, "", "", use))
    db.run("INSERT INTO tariff_uses (sequence, digest) VALUES (?, ?)", (sequence, tariff.digest))
    raise_revision(db, "tariffs")
    return tariff


def current_tariff(db: Database) -> Tariff | None:
    """The one in use; None before there was any."""
    rows = db.rows(
        "SELECT tariffs.text FROM tariff_uses JOIN tariffs ON tariffs.digest = tariff_uses.digest "
        "ORDER BY tariff_uses.sequence DESC LIMIT 1"
    )
    return Tariff.parse(str(rows[0][0])) if rows else None


def tariff_uses(db: Database) -> list[TariffUse]:
    """All of them, the first one first."""
    rows = db.rows(
        "SELECT entries.detail FROM tariff_uses "
        "JOIN entries ON entries.sequence = tariff_uses.sequence ORDER BY tariff_uses.sequence"
    )
    return [_decoder.decode(str(detail)) for (detail,) in rows]


def tariff_text(db: Database, digest: str) -> str | None:
    """A text that was in use once."""
    rows = db.rows("SELECT text FROM tariffs WHERE digest = ?", (digest,))
    return str(rows[0][0]) if rows else None
