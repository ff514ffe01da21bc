"""The same database on a server: transactions, what is refused, lost connections, restarts."""

from __future__ import annotations

import signal
import threading

import pytest

psycopg = pytest.importorskip("psycopg")

from tribody.core.errors import BadConfig, StorageFailed  # noqa: E402
from tribody.storage import postgres  # noqa: E402
from tribody.storage.database import (  # noqa: E402
    DatabaseBusy,
    Disconnected,
    DiskFull,
    StatementRefused,
)
from tribody.storage.migrations import STEPS  # noqa: E402
from tribody.storage.opening import open_database, open_reader  # noqa: E402
from tribody.storage.postgres import PostgresDatabase, _failure, _translated  # noqa: E402
from tribody.storage.writer import Writer  # noqa: E402


@pytest.fixture
def database(postgres_url):
    opened = PostgresDatabase(postgres_url)
    opened.run("CREATE TABLE numbers (n BIGINT PRIMARY KEY)")
    yield opened
    opened.close()


def numbers(database) -> list[int]:
    return [n for (n,) in database.rows("SELECT n FROM numbers ORDER BY n")]


def add(database, n: int) -> None:
    database.run("INSERT INTO numbers (n) VALUES (?)", (n,))


def attempt(database, *works) -> None:
    """One transaction of all of them."""
    with database.transaction():
        for work in works:
            work()


def fail() -> None:
    raise ZeroDivisionError


def end_others(database) -> None:
    """Every other connection of tribody's, as an operator or a restart does."""
    database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'tribody' AND pid <> pg_backend_pid()"
    )


@pytest.mark.parametrize(
    ("sql", "theirs", "number"),
    [
        ("SELECT 1", "SELECT 1", 0),
        ("SELECT ? + ?, '100%' WHERE a = ?", "SELECT $1 + $2, '100%' WHERE a = $3", 3),
        ("SELECT '?', 'it''s ?', \"a?\", ?", "SELECT '?', 'it''s ?', \"a?\", $1", 1),
        ("SELECT ? -- why?\n, /* ?\n? */ ?", "SELECT $1 -- why?\n, /* ?\n? */ $2", 2),
        ("DO $$ BEGIN RAISE '?'; END $$", "DO $$ BEGIN RAISE '?'; END $$", 0),
        ("SELECT '价格?', ?", "SELECT '价格?', $1", 1),
    ],
)
def test_parameters_are_numbered_outside_texts_names_and_comments(sql, theirs, number):
    assert _translated(sql) == (theirs.encode(), number)


def test_values_come_back_as_they_went(database):
    values = (2**63 - 1, -(2**63), 0, 1, "", "o'元\\ %s ? $1 \U0001f600", b"\x00\xff", b"", None)
    database.run(
        "CREATE TABLE all_kinds (a BIGINT, b BIGINT, c BIGINT, d BIGINT, e TEXT, f TEXT, "
        "g BYTEA, h BYTEA, i TEXT)"
    )
    database.run("INSERT INTO all_kinds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    assert database.rows("SELECT * FROM all_kinds") == [values]
    ((total, is_more, count),) = database.rows(
        "SELECT sum(a), a > b, count(*) FROM all_kinds GROUP BY a, b"
    )
    assert [(type(value), value) for value in (total, is_more, count)] == [
        (int, 2**63 - 1),
        (int, 1),
        (int, 1),
    ]
    add(database, True)
    assert numbers(database) == [1]


def test_a_transaction_is_all_or_nothing(database):
    with database.transaction():
        add(database, 1)
        assert database.in_transaction
    assert not database.in_transaction
    with pytest.raises(ZeroDivisionError):
        attempt(database, lambda: add(database, 2), fail)
    assert not database.in_transaction
    assert numbers(database) == [1]


def test_an_inner_transaction_is_undone_alone(database):
    with database.transaction():
        add(database, 1)
        with database.transaction():
            add(database, 2)
            with pytest.raises(StatementRefused):
                attempt(database, lambda: add(database, 3), lambda: add(database, 3))
            add(database, 4)
        with pytest.raises(ZeroDivisionError):
            attempt(database, lambda: attempt(database, lambda: add(database, 5), fail))
    assert numbers(database) == [1, 2, 4]


def test_an_error_that_is_caught_does_not_pass_for_a_commit(database):
    """PostgreSQL answers such a COMMIT with ROLLBACK and without an error."""

    def add_twice() -> None:
        add(database, 1)
        with pytest.raises(StatementRefused, match="unique"):
            add(database, 1)

    with pytest.raises(StatementRefused, match="the transaction is undone"):
        attempt(database, add_twice)
    assert numbers(database) == []
    with database.transaction():
        add(database, 2)
    assert numbers(database) == [2]


def test_others_see_what_is_committed_and_cannot_write_meanwhile(
    database, postgres_url, monkeypatch
):
    monkeypatch.setattr(postgres, "SETTINGS", (("lock_timeout", "10ms"),))
    other = PostgresDatabase(postgres_url)
    database.run("CREATE TABLE migrations (name TEXT PRIMARY KEY)")
    reader = PostgresDatabase(postgres_url, read_only=True)
    with database.transaction():
        add(database, 1)
        assert numbers(other) == numbers(reader) == []
        with pytest.raises(DatabaseBusy, match="lock timeout"), other.transaction():
            pass
        assert not other.in_transaction
    assert numbers(other) == numbers(reader) == [1]
    with reader.transaction():
        assert numbers(reader) == [1]
        with other.transaction():
            add(other, 2)
        assert numbers(reader) == [1]  # what it saw at first
    assert numbers(reader) == [1, 2]
    with pytest.raises(StatementRefused, match="read-only"):
        add(reader, 3)
    other.close()
    reader.close()


def test_what_was_read_in_a_transaction_stays_true(database, postgres_url):
    """Two who read the highest number and write the next one never write the same."""

    def count(num_times: int) -> None:
        mine = PostgresDatabase(postgres_url)
        for _ in range(num_times):
            with mine.transaction():
                ((highest,),) = mine.rows("SELECT coalesce(max(n), 0) FROM numbers")
                assert isinstance(highest, int)
                add(mine, highest + 1)
        mine.close()

    threads = [threading.Thread(target=count, args=(50,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(database) == list(range(1, 201))


def test_what_a_table_refuses_is_our_mistake(database):
    add(database, 1)
    with pytest.raises(StatementRefused, match="unique"):
        add(database, 1)
    with pytest.raises(StatementRefused, match="out of range"):
        add(database, 2**63)
    with pytest.raises(StatementRefused, match="invalid input"):
        database.run("INSERT INTO numbers (n) VALUES (?)", ("one",))
    with pytest.raises(StatementRefused, match="does not exist"):
        database.rows("SELECT 1 FROM nowhere")
    with pytest.raises(StatementRefused, match="NUL"):
        database.rows("SELECT ?::text", ("a\0b",))
    with pytest.raises(StatementRefused, match="takes 1 parameters, not 2"):
        database.run("INSERT INTO numbers (n) VALUES (?)", (1, 2))


def test_the_session_is_durable_and_lets_nobody_hang(postgres_cluster):
    asked = PostgresDatabase(f"{postgres_cluster.url()}&options=-csynchronous_commit%3Doff")
    for name, value in (
        ("synchronous_commit", "on"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("application_name", "tribody"),
    ):
        assert asked.rows(f"SHOW {name}") == [(value,)]
    asked.close()


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", DiskFull),
        ("40001", DatabaseBusy),
        ("40P01", DatabaseBusy),
        ("55P03", DatabaseBusy),
        ("23505", StatementRefused),
        ("58030", StorageFailed),
        ("XX001", StorageFailed),
    ],
)
def test_errors_of_the_server_have_their_kinds(state, kind):
    assert type(_failure(psycopg.errors.lookup(state)("what the server says"))) is kind


def test_what_cannot_be_used_is_refused(postgres_cluster, postgres_url):
    with pytest.raises(BadConfig, match="looks like postgresql://") as raised:
        open_database("postgresql://me:hunter2@[host/name")
    assert "hunter2" not in str(raised.value)
    with pytest.raises(Disconnected, match='database "nowhere" does not exist'):
        open_database(postgres_cluster.url("nowhere"))
    with pytest.raises(Disconnected, match="no connection to the database"):
        open_database("postgresql://postgres@/name?host=/nowhere")
    with pytest.raises(BadConfig, match=r"no tables of tribody's"):
        open_reader(postgres_url)


def test_a_database_of_another_encoding_is_refused(postgres_cluster):
    postgres_cluster.ask("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(BadConfig, match="LATIN1"):
        PostgresDatabase(postgres_cluster.url("latin"))


@pytest.mark.parametrize("statement", ["SELECT n FROM numbers", "UPDATE numbers SET n = n + 1"])
def test_a_lost_connection_is_made_again(database, postgres_url, statement):
    other = PostgresDatabase(postgres_url)
    add(other, 1)
    end_others(database)
    if statement.startswith("SELECT"):
        assert other.rows(statement) == [(1,)]
    else:
        with pytest.raises(Disconnected, match="connection was lost"):
            other.run(statement)
        other.run(statement)
        assert numbers(other) == [2]
    other.close()


def test_a_connection_lost_inside_a_transaction_undoes_it(database, postgres_url):
    other = PostgresDatabase(postgres_url)

    def lose() -> None:
        end_others(database)
        add(other, 2)

    with pytest.raises(Disconnected, match="connection was lost"):
        attempt(other, lambda: add(other, 1), lambda: attempt(other, lose))
    assert not other.in_transaction
    with other.transaction():
        add(other, 3)
    assert numbers(other) == [3]
    other.close()


def test_a_connection_lost_before_the_commit_undoes_it(database, postgres_url):
    other = PostgresDatabase(postgres_url)
    with pytest.raises(Disconnected, match="connection was lost"):
        attempt(other, lambda: add(other, 1), lambda: end_others(database))
    assert numbers(other) == []
    other.close()


def at_commit(monkeypatch, connection, lose) -> None:
    """`lose` is called with what sends COMMIT, in its place."""
    execute = connection.execute

    def replaced(sql, *arguments, **options):
        if sql == b"COMMIT":
            return lose(lambda: execute(sql))
        return execute(sql, *arguments, **options)

    monkeypatch.setattr(connection, "execute", replaced)


def test_a_commit_that_does_not_arrive_undoes_it(database, postgres_url, monkeypatch):
    other = PostgresDatabase(postgres_url)
    attempt(other, lambda: add(other, 1))

    def lose(commit):
        end_others(database)
        return commit()

    at_commit(monkeypatch, other._connection, lose)
    with pytest.raises(Disconnected, match="the transaction is undone"):
        attempt(other, lambda: add(other, 2))
    attempt(other, lambda: add(other, 3))
    assert numbers(other) == [1, 3]
    other.close()


def test_a_commit_whose_answer_is_lost_counts(database, postgres_url, monkeypatch):
    other = PostgresDatabase(postgres_url)
    lost = other._connection

    def lose(commit):
        commit()
        lost.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    at_commit(monkeypatch, lost, lose)
    attempt(other, lambda: add(other, 1))
    assert other._connection is not lost
    assert numbers(other) == [1]
    attempt(other, lambda: add(other, 2))
    assert numbers(database) == [1, 2]
    other.close()


def test_a_fate_that_cannot_be_learnt_is_a_failure(database, postgres_url, monkeypatch):
    monkeypatch.setattr(postgres, "DOUBT_SECONDS", 0)
    other = PostgresDatabase(postgres_url)

    def lose(commit):
        end_others(database)
        return commit()

    def away():
        raise Disconnected("no connection")

    at_commit(monkeypatch, other._connection, lose)
    monkeypatch.setattr(other, "_connect", away)
    with pytest.raises(StorageFailed, match="not said within 0 s") as raised:
        attempt(other, lambda: add(other, 1))
    assert type(raised.value) is StorageFailed


def test_a_connection_that_wrote_leaves_nothing_behind(database, postgres_url):
    other = PostgresDatabase(postgres_url)
    attempt(other, lambda: add(other, 1))
    attempt(other, lambda: add(other, 2))
    assert database.rows("SELECT number FROM writers") == [(2,)]
    other.close()
    assert database.rows("SELECT number FROM writers") == []


def test_every_step_is_taken_once_by_many_at_once(postgres_url):
    failures = []

    def open_and_close() -> None:
        try:
            open_database(postgres_url).close()
        except StorageFailed as error:
            failures.append(error)

    threads = [threading.Thread(target=open_and_close) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    reader = open_reader(postgres_url)
    assert reader.rows("SELECT count(*) FROM migrations") == [(len(STEPS),)]
    reader.close()


@pytest.mark.parametrize("table", [table for step in STEPS for table in step.append_only])
def test_rows_of_the_ledger_are_never_changed(postgres_url, table):
    database = open_database(postgres_url)
    columns = database.rows(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_name = ? AND table_schema = current_schema() ORDER BY ordinal_position",
        (table,),
    )
    numbers = ", ".join(f"'{n}'" for n in range(1, len(columns) + 1))
    database.run(f"INSERT INTO {table} VALUES ({numbers})")
    for change in (
        f"UPDATE {table} SET {columns[-1][0]!s} = '7'",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
    ):
        with pytest.raises(StatementRefused, match=f"rows of {table} are never changed"):
            database.run(change)
    assert database.rows(f"SELECT count(*) FROM {table}") == [(1,)]
    database.close()


def test_texts_are_ordered_by_their_bytes(postgres_url):
    """As in SQLite, whatever the locale of the server."""
    database = open_database(postgres_url)
    collations = database.rows(
        "SELECT table_name, column_name FROM information_schema.columns WHERE data_type = 'text' "
        "AND table_schema = current_schema() AND collation_name IS DISTINCT FROM 'C'"
    )
    assert collations == []
    database.close()


def test_a_writer_goes_on_after_a_restart_of_the_server(postgres_cluster, postgres_url):
    """What is asked meanwhile fails and is not done; nothing acknowledged is lost."""
    writer = Writer(postgres_url)

    def work(db) -> None:
        db.run(
            "INSERT INTO revision (area, number) VALUES ('restart', 1) "
            "ON CONFLICT (area) DO UPDATE SET number = revision.number + 1"
        )

    writer.submit(work).result(30)
    postgres_cluster.stop(signal.SIGQUIT)
    with pytest.raises(Disconnected):
        writer.submit(work).result(30)
    postgres_cluster.start()
    writer.submit(work).result(30)
    assert writer.failure is None
    writer.close()
    reader = open_reader(postgres_url)
    assert reader.rows("SELECT number FROM revision") == [(2,)]
    reader.close()
