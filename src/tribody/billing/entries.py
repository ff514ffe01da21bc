"""The chain of entries: the one way by which anything comes into the ledger.

An entry says what happened, with postings (which sum to 0 in every currency) and perhaps the usage
record of a request.  Its hash covers all of that and the hash of the entry before it:

    SHA-256 of the JSON list [previous hash, sequence, kind, at_ms, tenant_id, request_id, detail,
                              [[account, currency, micro], ...], usage record or null]

without spaces, text as UTF-8.  `sequence` orders entries; `at_ms` is data and may jump.
Balances follow from postings and are kept up in the same transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import msgspec

from tribody.billing.records import AmountRefused, EntryKind
from tribody.core.metering import UsageRecord
from tribody.storage.database import Database, Value

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

    def values(self) -> tuple[Value | list[Posting] | list[Value], ...]:
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


def append(db: Database, entry: Entry) -> int:
    """Write an entry at the end of the chain.  Returns its sequence number.

    Raises: AmountRefused when an account would pass the database's integers.
    """
    assert db.in_transaction, "entries are written inside a transaction"
    postings = [posting for posting in entry.postings if posting.micro]
    [(last, previous)] = db.rows("SELECT sequence, hash FROM head WHERE id = 1")
    assert isinstance(last, int)
    assert isinstance(previous, str)
    sequence = last + 1
    detail = _encode(entry.detail).decode()
    usage = None if entry.usage is None else entry.usage.values()
    fields = (sequence, entry.kind, entry.at_ms, entry.tenant_id, entry.request_id, detail)
    digest = entry_hash(previous, fields, postings, usage)
    db.run(f"INSERT INTO entries ({ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", (*fields, digest))
    if postings:
        _post(db, sequence, postings)
    if usage is not None:
        db.run(
            f"INSERT INTO usage ({USAGE_COLUMNS}) VALUES {_rows(1, NUM_USAGE_COLUMNS)}",
            (sequence, *usage),
        )
    db.run("UPDATE head SET sequence = ?, hash = ? WHERE id = 1", (sequence, digest))
    return sequence


def entry_hash(
    previous: str,
    fields: Sequence[Value],
    postings: Sequence[Sequence[Value]],
    usage: Sequence[Value] | None,
) -> str:
    return hashlib.sha256(_encode((previous, *fields, postings, usage))).hexdigest()


def account_balances(db: Database, accounts: Sequence[str], currency: str) -> dict[str, int]:
    """What is on each account; 0 on those that were never posted to."""
    marks = ", ".join("?" * len(accounts))
    rows = db.rows(
        f"SELECT account, micro FROM balances WHERE currency = ? AND account IN ({marks})",
        (currency, *accounts),
    )
    found = dict.fromkeys(accounts, 0)
    found.update(cast(list[tuple[str, int]], rows))
    return found


def _post(db: Database, sequence: int, postings: Sequence[Posting]) -> None:
    values: list[Value] = []
    changes: dict[str, dict[str, int]] = {}  # by currency and account
    for line, (account, currency, micro) in enumerate(postings):
        values += (sequence, line, account, currency, micro)
        accounts = changes.setdefault(currency, {})
        accounts[account] = accounts.get(account, 0) + micro
    db.run(
        "INSERT INTO postings (sequence, line, account, currency, micro) "
        f"VALUES {_rows(len(postings), 5)}",
        values,
    )
    for currency, accounts in changes.items():
        assert sum(accounts.values()) == 0, "postings sum to 0"
        _change_balances(db, currency, accounts)


def _change_balances(db: Database, currency: str, changes: Mapping[str, int]) -> None:
    values: list[Value] = []
    for account, before in account_balances(db, tuple(changes), currency).items():
        after = before + changes[account]
        if abs(after) > MAX_BALANCE:
            raise AmountRefused(
                f"the account {account} would come to {after} micro-{currency}; the limit is "
                f"{MAX_BALANCE}"
            )
        values += (account, currency, after)
    db.run(
        f"INSERT INTO balances (account, currency, micro) VALUES {_rows(len(changes), 3)} "
        "ON CONFLICT (account, currency) DO UPDATE SET micro = excluded.micro",
        values,
    )


def _rows(count: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * count)
