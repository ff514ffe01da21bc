"""The chain of entries: the one way by which anything comes into the ledger.

An entry says what happened, with postings (in one currency, with the sum 0) and perhaps the usage
record of a request.  Its hash covers all of that and the hash of the entry before it:

    SHA-256 of the JSON list [previous hash, sequence, kind, at_ms, tenant_id, request_id, detail,
                              [[account, currency, micro], ...], usage record or null]

without spaces, text as UTF-8.  `sequence` orders entries; `at_ms` is data and may jump.
Balances follow from postings and are kept up in the same transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple, cast

import msgspec

from tribody.billing.records import AmountRefused, EntryKind
from tribody.core.metering import UsageRecord
from tribody.storage.database import Database, Value

FIRST_HASH = "0" * 64  # before the first entry
MAX_BALANCE = 2**63 - 1  # what a database's integer holds

ENTRY_COLUMNS = "sequence, kind, at_ms, tenant_id, request_id, detail, hash"
USAGE_COLUMNS = (
    "sequence, request_id, tenant_id, user_id, key_id, model, route, streamed, is_batch, "
    "started_ms, ended_ms, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, "
    "outcome, currency, charged_micro, tariff_digest, rule_id"
)
NUM_USAGE_COLUMNS = USAGE_COLUMNS.count(",") + 1

_encode = msgspec.json.Encoder().encode


class Posting(NamedTuple):
    """One line of an entry: so much more (or less) on an account."""

    account: str
    currency: str
    micro: int


class Usage(NamedTuple):
    """A usage record as it is booked, with what was taken for it."""

    record: UsageRecord
    currency: str = ""
    charged_micro: int = 0
    tariff_digest: str = ""
    rule_id: str = ""

    def values(self) -> list[Value]:
        """In the order of the table's columns, less `sequence`."""
        record, counts = self.record, self.record.counts
        return [
            record.request_id,
            record.tenant_id,
            record.user_id,
            record.key_id,
            record.model,
            record.route,
            int(record.streamed),
            int(record.is_batch),
            record.started_ms,
            record.ended_ms,
            counts.prompt_tokens,
            counts.cached_tokens,
            counts.completion_tokens,
            counts.reasoning_tokens,
            record.outcome,
            self.currency,
            self.charged_micro,
            self.tariff_digest,
            self.rule_id,
        ]


class Entry(NamedTuple):
    """What is to be written."""

    kind: EntryKind
    at_ms: int
    tenant_id: str
    request_id: str
    detail: msgspec.Struct
    postings: Sequence[Posting] = ()
    usage: Usage | None = None

    def values(self) -> tuple[str, int, str, str, list[Posting], list[Value] | None]:
        """What its hash covers, less its place in the chain and the detail's text."""
        postings = [posting for posting in self.postings if posting.micro]
        usage = None if self.usage is None else self.usage.values()
        return self.kind, self.at_ms, self.tenant_id, self.request_id, postings, usage


def granted(tenant_id: str) -> str:
    return f"tenant/{tenant_id}/granted"


def topped_up(tenant_id: str) -> str:
    return f"tenant/{tenant_id}/topped_up"


def held(tenant_id: str) -> str:
    return f"tenant/{tenant_id}/held"


def income(model: str) -> str:
    return f"income/{model}"


HOLDS = "holds"  # the other side of every `held`
CASH = "cash"
PROMOTIONS = "promotions"
ADJUSTMENTS = "adjustments"


def append(db: Database, entry: Entry, known: Mapping[str, int] | None = None) -> int:
    """Write an entry at the end of the chain.  Returns its sequence number.

    `known` are balances, in the currency of its postings, that were read in this transaction.

    Raises: AmountRefused when an account would pass the database's integers.
    """
    assert db.in_transaction, "entries are written inside a transaction"
    last, previous = chain_end(db)
    sequence = last + 1
    detail = _encode(entry.detail).decode()
    kind, at_ms, tenant_id, request_id, postings, usage = entry.values()
    fields = (sequence, kind, at_ms, tenant_id, request_id, detail)
    digest = entry_hash(previous, fields, postings, usage)
    db.run(INSERT_ENTRY, (*fields, digest))
    if postings:
        _post(db, sequence, postings, known or {})
    if usage is not None:
        db.run(INSERT_USAGE, (sequence, *usage))
    return sequence


def chain_end(db: Database) -> tuple[int, str]:
    """The last entry's sequence number and hash."""
    rows = db.rows("SELECT sequence, hash FROM entries ORDER BY sequence DESC LIMIT 1")
    return cast(tuple[int, str], rows[0]) if rows else (0, FIRST_HASH)


def entry_hash(
    previous: str,
    fields: Sequence[Value],
    postings: Sequence[Sequence[Value]],
    usage: Sequence[Value] | None,
) -> str:
    return hashlib.sha256(_encode((previous, *fields, postings, usage))).hexdigest()


def account_balances(db: Database, accounts: Sequence[str], currency: str) -> dict[str, int]:
    """What is on each account; 0 on those that were never posted to."""
    values = [value for account in accounts for value in (account, currency)]
    [found] = cast(list[tuple[int | None, ...]], db.rows(_select_balances(len(accounts)), values))
    return {account: micro or 0 for account, micro in zip(accounts, found, strict=True)}


def currency_sums(db: Database) -> dict[str, int]:
    """What all accounts of each currency come to: 0, or an entry did not balance."""
    rows = db.rows("SELECT currency, CAST(SUM(micro) AS BIGINT) FROM balances GROUP BY currency")
    return dict(cast(list[tuple[str, int]], rows))


def _post(
    db: Database, sequence: int, postings: Sequence[Posting], known: Mapping[str, int]
) -> None:
    values: list[Value] = []
    changes: dict[str, int] = {}
    [currency] = {posting.currency for posting in postings}
    for line, (account, _, micro) in enumerate(postings):
        values += (sequence, line, account, currency, micro)
        changes[account] = changes.get(account, 0) + micro
    assert sum(changes.values()) == 0, "postings sum to 0"
    db.run(_insert_postings(len(postings)), values)
    unknown = [account for account in changes if account not in known]
    before = {**known, **account_balances(db, unknown, currency)} if unknown else known
    values = []
    for account, change in changes.items():
        after = before[account] + change
        if abs(after) > MAX_BALANCE:
            raise AmountRefused(
                f"the account {account} would come to {after} micro-{currency}; the limit is "
                f"{MAX_BALANCE}"
            )
        values += (account, currency, after)
    db.run(_set_balances(len(changes)), values)


# Statements by the number of their rows, each made once.


@cache
def _select_balances(count: int) -> str:
    # Twice as fast as IN, for which SQLite makes a table of its own.
    one = "(SELECT micro FROM balances WHERE account = ? AND currency = ?)"
    return f"SELECT {', '.join([one] * count)}"


@cache
def _insert_postings(count: int) -> str:
    return (
        f"INSERT INTO postings (sequence, line, account, currency, micro) VALUES {_rows(count, 5)}"
    )


@cache
def _set_balances(count: int) -> str:
    return (
        f"INSERT INTO balances (account, currency, micro) VALUES {_rows(count, 3)} "
        "ON CONFLICT (account, currency) DO UPDATE SET micro = excluded.micro"
    )


def _rows(count: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * count)


INSERT_ENTRY = f"INSERT INTO entries ({ENTRY_COLUMNS}) VALUES {_rows(1, 7)}"
INSERT_USAGE = f"INSERT INTO usage ({USAGE_COLUMNS}) VALUES {_rows(1, NUM_USAGE_COLUMNS)}"
