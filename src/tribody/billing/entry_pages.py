"""The ledger's entries as they were written, page by page: for people who look things up."""

from __future__ import annotations

from typing import cast

import msgspec

from tribody.billing.entries import Posting
from tribody.billing.records import EntryKind
from tribody.storage.database import Database, Value


class WrittenEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`detail` is JSON, word for word."""

    sequence: int
    kind: EntryKind
    at_ms: int
    tenant_id: str
    request_id: str
    detail: str
    hash: str
    postings: list[Posting]


def written_entries(
    db: Database,
    *,
    after: int = 0,
    most: int,
    tenant_id: str | None = None,
    kind: EntryKind | None = None,
) -> list[WrittenEntry]:
    """Those behind the one numbered `after`, in their order."""
    wanted: list[tuple[str, Value]] = [("sequence >", after)]
    wanted += [("tenant_id =", tenant_id)] if tenant_id is not None else []
    wanted += [("kind =", kind)] if kind is not None else []
    names = WrittenEntry.__struct_fields__[:-1]
    rows = db.rows(
        f"SELECT {', '.join(names)} FROM entries "
        f"WHERE {' AND '.join(f'{text} ?' for text, _ in wanted)} ORDER BY sequence LIMIT ?",
        [*(value for _, value in wanted), most],
    )
    postings = _postings(db, [cast(int, row[0]) for row in rows])
    return [
        msgspec.convert(
            {**dict(zip(names, row, strict=True)), "postings": postings.get(cast(int, row[0]), [])},
            WrittenEntry,
        )
        for row in rows
    ]


def _postings(db: Database, sequences: list[int]) -> dict[int, list[Posting]]:
    """By entry."""
    found: dict[int, list[Posting]] = {}
    for start in range(0, len(sequences), 500):  # parameters of one statement
        part = sequences[start : start + 500]
        rows = db.rows(
            "SELECT sequence, account, currency, micro FROM postings "
            f"WHERE sequence IN ({', '.join('?' * len(part))}) ORDER BY sequence, line",
            part,
        )
        for sequence, *posting in cast(list[tuple[int, str, str, int]], rows):
            found.setdefault(sequence, []).append(Posting(*posting))  # type: ignore[arg-type]
    return found
