"""Every database gets every table once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tribody.core.errors import BadConfig
from tribody.storage.database import StatementRefused
from tribody.storage.migrations import STEPS, Step, migrate, statements
from tribody.storage.opening import open_database, open_reader
from tribody.storage.revisions import raise_revision, revisions

APPEND_ONLY = [table for step in STEPS for table in step.append_only]


def schema(database) -> list[str]:
    return [sql for (sql,) in database.rows("SELECT sql FROM sqlite_schema ORDER BY name")]


def test_names_of_steps_are_their_own():
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_opening_again_changes_nothing(tmp_path):
    first = open_database(tmp_path / "accounts.db")
    tables = schema(first)
    first.close()
    second = open_database(tmp_path / "accounts.db")
    assert schema(second) == tables
    assert second.rows("SELECT count(*) FROM migrations") == [(len(STEPS),)]
    second.close()


def test_many_may_open_a_new_database_at_once(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(open_database, [tmp_path / "accounts.db"] * 8))
    assert len({str(schema(database)) for database in opened}) == 1
    for database in opened:
        database.close()


def test_a_database_of_a_newer_tribody_is_refused(tmp_path):
    database = open_database(tmp_path / "accounts.db")
    database.run("INSERT INTO migrations (name) VALUES ('loyalty points')")
    database.close()
    with pytest.raises(BadConfig, match=r"loyalty points.*upgrade"):
        open_database(tmp_path / "accounts.db")


def test_a_step_that_fails_is_not_taken(tmp_path, monkeypatch):
    database = open_database(tmp_path / "accounts.db")
    tables = schema(database)
    broken = Step("broken", ("CREATE TABLE fine (n INTEGER) STRICT", "CREATE TABLE broken ("))
    monkeypatch.setattr("tribody.storage.migrations.STEPS", (*STEPS, broken))
    with pytest.raises(StatementRefused):
        migrate(database)
    assert schema(database) == tables
    database.close()


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_rows_of_the_ledger_are_never_changed(table):
    database = open_database(":memory:")
    names = database.rows(f"SELECT name FROM pragma_table_info('{table}')")
    columns = [str(name) for (name,) in names]
    numbers = ", ".join(str(n) for n in range(1, len(columns) + 1))
    database.run(f"INSERT INTO {table} VALUES ({numbers})")
    before = database.rows(f"SELECT * FROM {table}")
    with pytest.raises(StatementRefused, match=f"rows of {table} are never changed"):
        database.run(f"UPDATE {table} SET {columns[-1]} = 7")
    with pytest.raises(StatementRefused, match=f"rows of {table} are never changed"):
        database.run(f"DELETE FROM {table}")
    assert database.rows(f"SELECT * FROM {table}") == before
    database.close()


def test_for_postgresql_the_types_and_guards_are_its_own():
    step = Step(
        "pages",
        ("CREATE TABLE pages (n INTEGER PRIMARY KEY, text TEXT, b BLOB) STRICT, WITHOUT ROWID",),
        append_only=("pages",),
    )
    table, function, trigger = statements(step, "postgresql")
    assert table == ('CREATE TABLE pages (n BIGINT PRIMARY KEY, text TEXT COLLATE "C", b BYTEA)')
    assert function.startswith("CREATE OR REPLACE FUNCTION never_changed()")
    assert trigger.startswith("CREATE TRIGGER pages_keep BEFORE UPDATE OR DELETE OR TRUNCATE")


def test_revisions_count_changes_of_an_area(tmp_path):
    database = open_database(tmp_path / "accounts.db")
    reader = open_reader(tmp_path / "accounts.db")
    assert revisions(reader) == {}
    with database.transaction():
        raise_revision(database, "tenancy")
    with database.transaction():
        raise_revision(database, "tenancy")
        raise_revision(database, "tariffs")
    assert revisions(reader) == {"tenancy": 2, "tariffs": 1}
    reader.close()
    database.close()
