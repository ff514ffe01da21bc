"""What is kept beside the ledger, against what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tribody.billing.verify_books import Books, Problems
from tribody.storage.database import Database


def compare_state(db: Database, books: Books, problems: Problems) -> None:
    """After every entry has been followed."""

    def kept(sql: str, num_keys: int = 1) -> dict[Any, object]:
        rows = db.rows(f"SELECT {sql}")
        if num_keys == 1:
            return {row[0]: row[1] for row in rows}
        return {row[:num_keys]: row[num_keys:] for row in rows}

    balances = {key: (micro,) for key, micro in books.balances.items()}
    open_requests = {request_id: sequence for request_id, (sequence, _) in books.open.items()}
    undecided = {request_id: offer.settled for request_id, offer in books.offers.items()}
    for what, found, expected in (
        ("balance", kept("* FROM balances", 2), balances),
        ("total", kept("* FROM totals", 3), books.totals),
        ("free allowance", kept("* FROM free_used", 3), books.free_used),
        ("idempotency key", kept("* FROM idempotency", 2), books.keys),
        ("use of a price list", kept("* FROM tariff_uses"), dict(books.tariff_uses)),
        (
            "open request",
            kept("request_id, opened FROM requests WHERE closed IS NULL"),
            open_requests,
        ),
        (
            "undecided result",
            kept("request_id, sequence FROM results WHERE decided IS NULL AND accepted = 0"),
            undecided,
        ),
    ):
        _compare(problems, what, found, expected)
    lists = {digest for _, digest in books.tariff_uses}
    for what, table, number in (
        ("requests", "requests", books.num_requests),
        ("results", "results", books.num_results),
        ("price lists", "tariffs", len(lists)),
    ):
        if (rows := db.rows(f"SELECT count(*) FROM {table}")) != [(number,)]:
            problems.add(f"{rows[0][0]!r} {what} are kept; the ledger has {number}")


def _compare(
    problems: Problems, what: str, kept: Mapping[Any, object], expected: Mapping[Any, object]
) -> None:
    for key in sorted({*kept, *expected}, key=str):
        if (one := kept.get(key)) != (other := expected.get(key)):
            problems.add(f"the {what} {key} is kept as {one}; the ledger says {other}")
