"""Is the ledger what it says it is?  Reads all of it once and computes everything again.

Checked are the chain (nothing changed, removed, put in or moved), the postings of every entry
(they are those that its kind asks for, and sum to 0), every charge (priced again from its usage
record by the stored price list), and what is kept beside the ledger: balances, totals, free
allowances, requests, results, idempotency keys.

What no database can show of itself is that its end was cut off and everything else changed to
match; for that, keep the `head` that a report ends with somewhere else, and give it to the next
verification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import msgspec

from tribody.billing.entries import ENTRY_COLUMNS, FIRST_HASH, USAGE_COLUMNS, entry_hash
from tribody.billing.verify_books import Books, EntryRow, Problems
from tribody.billing.verify_state import compare_state
from tribody.storage.database import Database, Value

PAGE_ENTRIES = 1000  # read at a time: about two megabytes
Progress = Callable[[int, int], None]  # entries read, entries there are


class Head(NamedTuple):
    """Where the chain ended once."""

    sequence: int
    hash: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.  `problems` are the first hundred of `num_problems`."""

    entries: int
    requests: int
    charges: int
    head: Head
    problems: list[str]
    num_problems: int

    @property
    def is_right(self) -> bool:
        return self.num_problems == 0


def verify(db: Database, progress: Progress | None = None, *, known: Head | None = None) -> Report:
    """Everything, at one moment; with a reader (`open_reader`) nobody has to wait for it.

    `known` is where an earlier report ended: the chain has to go through it.
    """
    problems = Problems()
    books = Books(db, problems)
    with db.transaction():
        [(total,)] = cast(list[tuple[int]], db.rows("SELECT count(*) FROM entries"))
        previous = Head(0, FIRST_HASH)
        read = 0
        for page in _pages(db, problems):
            for entry, digest in page:
                previous = _check_chain(problems, previous, entry, digest)
                if known is not None and known.sequence == previous.sequence:
                    if known.hash != previous.hash:
                        problems.add(f"entry {known.sequence} is another than it once was")
                    known = None
                books.follow(entry)
            read += len(page)
            if progress is not None:
                progress(read, total)
        if known is not None and known.sequence:
            problems.add(f"the chain ends before entry {known.sequence}, which it once had")
        compare_state(db, books, problems)
    return Report(
        entries=read,
        requests=books.num_requests,
        charges=books.num_charges,
        head=previous,
        problems=problems.first,
        num_problems=problems.count,
    )


def _check_chain(problems: Problems, previous: Head, entry: EntryRow, digest: str) -> Head:
    """The new end.  After a problem it goes on from what is there, so that each shows once."""
    if entry.sequence != previous.sequence + 1:
        problems.add(f"entry {entry.sequence} follows entry {previous.sequence}")
    fields = (
        entry.sequence,
        entry.kind,
        entry.at_ms,
        entry.tenant_id,
        entry.request_id,
        entry.detail,
    )
    if entry_hash(previous.hash, fields, entry.postings, entry.usage) != digest:
        problems.add(f"entry {entry.sequence} does not have the hash of what it says")
    return Head(entry.sequence, digest)


def _pages(db: Database, problems: Problems) -> Iterator[list[tuple[EntryRow, str]]]:
    """Entries with their postings and usage records, and their hashes."""
    lowest = -(2**63)
    while True:
        rows = db.rows(
            f"SELECT {ENTRY_COLUMNS} FROM entries WHERE sequence > ? ORDER BY sequence "
            f"LIMIT {PAGE_ENTRIES}",
            (lowest,),
        )
        is_last = len(rows) < PAGE_ENTRIES
        highest = 2**63 - 1 if is_last else cast(int, rows[-1][0])
        between = "WHERE sequence > ? AND sequence <= ?"
        postings: dict[int, list[list[Value]]] = {}
        lines = db.rows(
            "SELECT sequence, line, account, currency, micro FROM postings "
            f"{between} ORDER BY sequence, line",
            (lowest, highest),
        )
        for row in lines:
            sequence, line = cast(tuple[int, int], row[:2])
            of_entry = postings.setdefault(sequence, [])
            if line != len(of_entry):
                problems.add(f"postings of entry {sequence} are not numbered from 0")
            of_entry.append(list(row[2:]))
        used = db.rows(f"SELECT {USAGE_COLUMNS} FROM usage {between}", (lowest, highest))
        usage = {cast(int, row[0]): list(row[1:]) for row in used}
        page = []
        for sequence, kind, at_ms, tenant_id, request_id, detail, digest in cast(
            list[tuple[int, str, int, str, str, str, str]], rows
        ):
            entry = EntryRow(
                sequence,
                kind,
                at_ms,
                tenant_id,
                request_id,
                detail,
                postings.pop(sequence, []),
                usage.pop(sequence, None),
            )
            page.append((entry, digest))
        for sequence in sorted({*postings, *usage}):
            problems.add(f"there are postings or usage of an entry {sequence} that is not there")
        if page:
            yield page
        if is_last:
            return
        lowest = highest
