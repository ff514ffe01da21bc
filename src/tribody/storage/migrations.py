"""All tables, as named steps that each database takes once, in this order.

A step that has been released is never changed: what comes later is a step of its own.  The text is
SQLite's; `statements` turns it into PostgreSQL's.
"""

from __future__ import annotations

from typing import NamedTuple

from tribody.core.errors import BadConfig
from tribody.storage.database import Database, Dialect, StatementRefused


class Step(NamedTuple):
    """Tables that come into being together.  Rows of the `append_only` ones are never changed."""

    name: str
    texts: tuple[str, ...]
    append_only: tuple[str, ...] = ()


MIGRATIONS = Step("migrations", ("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY)",))

REVISION = Step(
    "revision",
    (
        """CREATE TABLE revision (
            area TEXT PRIMARY KEY,
            number INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ),
)

# What the chain of hashes covers.  `sequence` orders everything; instants are data.
LEDGER = Step(
    "ledger",
    (
        """CREATE TABLE entries (
            sequence INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            at_ms INTEGER NOT NULL,
            tenant_id TEXT NOT NULL,
            request_id TEXT NOT NULL,
            detail TEXT NOT NULL,
            hash TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX entries_of_tenant ON entries (tenant_id, at_ms)",
        """CREATE TABLE postings (
            sequence INTEGER NOT NULL,
            line INTEGER NOT NULL,
            account TEXT NOT NULL,
            currency TEXT NOT NULL,
            micro INTEGER NOT NULL,
            PRIMARY KEY (sequence, line)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE usage (
            sequence INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL,
            tenant_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            key_id TEXT NOT NULL,
            model TEXT NOT NULL,
            route TEXT NOT NULL,
            streamed INTEGER NOT NULL,
            is_batch INTEGER NOT NULL,
            started_ms INTEGER NOT NULL,
            ended_ms INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            reasoning_tokens INTEGER NOT NULL,
            outcome TEXT NOT NULL,
            currency TEXT NOT NULL,
            charged_micro INTEGER NOT NULL,
            tariff_digest TEXT NOT NULL,
            rule_id TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE tariffs (
            digest TEXT PRIMARY KEY,
            text TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE tariff_uses (
            sequence INTEGER PRIMARY KEY,
            digest TEXT NOT NULL
        ) STRICT""",
    ),
    append_only=("entries", "postings", "usage", "tariffs", "tariff_uses"),
)

# What follows from the ledger and is kept because it is asked for with every request; changed in
# the same transactions, and computed again by `verify`.
LEDGER_STATE = Step(
    "ledger state",
    (
        """CREATE TABLE balances (
            account TEXT NOT NULL,
            currency TEXT NOT NULL,
            micro INTEGER NOT NULL,
            PRIMARY KEY (account, currency)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE totals (
            scope TEXT NOT NULL,
            period TEXT NOT NULL,
            currency TEXT NOT NULL,
            tokens INTEGER NOT NULL,
            micro INTEGER NOT NULL,
            held_tokens INTEGER NOT NULL,
            held_micro INTEGER NOT NULL,
            PRIMARY KEY (scope, period, currency)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE requests (
            request_id TEXT PRIMARY KEY,
            node_id TEXT NOT NULL,
            opened INTEGER,
            closed INTEGER
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX requests_open ON requests (node_id) WHERE closed IS NULL",
        """CREATE TABLE free_used (
            tenant_id TEXT NOT NULL,
            allowance_id TEXT NOT NULL,
            period TEXT NOT NULL,
            hit INTEGER NOT NULL,
            miss INTEGER NOT NULL,
            output INTEGER NOT NULL,
            reasoning INTEGER NOT NULL,
            PRIMARY KEY (tenant_id, allowance_id, period)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE results (
            sequence INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL UNIQUE,
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            currency TEXT NOT NULL,
            micro INTEGER NOT NULL,
            until_ms INTEGER NOT NULL,
            decided INTEGER,
            accepted INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX results_open ON results (until_ms) WHERE decided IS NULL",
        """CREATE TABLE idempotency (
            scope TEXT NOT NULL,
            key TEXT NOT NULL,
            body_digest TEXT NOT NULL,
            sequence INTEGER NOT NULL,
            PRIMARY KEY (scope, key)
        ) STRICT, WITHOUT ROWID""",
    ),
)

# Who there is.  `limits`, `models` and `routes` are JSON.
TENANCY = Step(
    "tenancy",
    (
        """CREATE TABLE tenants (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            currency TEXT NOT NULL,
            weight INTEGER NOT NULL,
            slo TEXT NOT NULL,
            limits TEXT NOT NULL,
            credit_micro INTEGER NOT NULL,
            is_paused INTEGER NOT NULL,
            api TEXT NOT NULL,
            created_ms INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE users (
            id TEXT NOT NULL,
            tenant_id TEXT NOT NULL,
            name TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            PRIMARY KEY (tenant_id, id)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            tenant_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            name TEXT NOT NULL,
            digest TEXT NOT NULL UNIQUE,
            shown TEXT NOT NULL,
            models TEXT,
            routes TEXT,
            limits TEXT NOT NULL,
            api TEXT NOT NULL,
            is_paused INTEGER NOT NULL,
            created_ms INTEGER NOT NULL,
            expires_ms INTEGER,
            revoked_ms INTEGER
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE changes (
            number INTEGER PRIMARY KEY,
            at_ms INTEGER NOT NULL,
            who TEXT NOT NULL,
            what TEXT NOT NULL,
            subject TEXT NOT NULL,
            detail TEXT NOT NULL
        ) STRICT""",
        "CREATE TABLE secret_used (fingerprint TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    ),
    append_only=("changes", "secret_used"),
)

STEPS: tuple[Step, ...] = (REVISION, LEDGER, LEDGER_STATE, TENANCY)


def migrate(database: Database) -> None:
    """Take the steps that this database has not taken yet.

    Raises: BadConfig when it has taken one that is not known here.
    """
    if not _steps_left(database):
        return
    with database.transaction():  # in which nobody else takes them
        for statement in statements(MIGRATIONS, database.dialect):
            database.run(statement)
        for step in _steps_left(database):
            for statement in statements(step, database.dialect):
                database.run(statement)
            database.run("INSERT INTO migrations (name) VALUES (?)", (step.name,))


def _steps_left(database: Database) -> list[Step]:
    try:
        rows = database.rows("SELECT name FROM migrations")
    except StatementRefused:
        if database.in_transaction:
            raise
        return list(STEPS)  # the table is not there yet
    taken = {str(name) for (name,) in rows}
    unknown = taken - {step.name for step in STEPS}
    if unknown:
        raise BadConfig(
            f"the database was written by a newer tribody (it has {', '.join(sorted(unknown))}); "
            "upgrade this one"
        )
    return [step for step in STEPS if step.name not in taken]


def statements(step: Step, dialect: Dialect) -> list[str]:
    """What a step runs, in one dialect."""
    if dialect == "sqlite":
        guards = [
            f"CREATE TRIGGER {table}_keep_{event} BEFORE {event} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed'); END"
            for table in step.append_only
            for event in ("update", "delete")
        ]
        return [*step.texts, *guards]
    function = (
        "CREATE OR REPLACE FUNCTION never_changed() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME; END $$"
    )
    guards = [
        f"CREATE TRIGGER {table}_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION never_changed()"
        for table in step.append_only
    ]
    return [*(_for_postgresql(text) for text in step.texts), function, *guards]


def _for_postgresql(text: str) -> str:
    for ours, theirs in (
        (") STRICT, WITHOUT ROWID", ")"),
        (") STRICT", ")"),
        (" INTEGER", " BIGINT"),
        (" TEXT", ' TEXT COLLATE "C"'),  # ordered by bytes, as SQLite does
        (" BLOB", " BYTEA"),
    ):
        text = text.replace(ours, theirs)
    return text
