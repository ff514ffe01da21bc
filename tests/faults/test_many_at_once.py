"""Two writing processes, a reader that stays, checkpoints and copies, all at the same time."""

from __future__ import annotations

import signal
from pathlib import Path

import apsw
import pytest

from tests.faults.books import Answers, check_after, check_sums, command, head, start
from tribody.storage.opening import open_database, open_reader

NODES = ("left", "right")


def copy(path: Path, target: Path) -> None:
    """As an operator does with SQLite's own means, while others write."""
    source, destination = apsw.Connection(str(path)), apsw.Connection(str(target))
    with destination.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step(50)
    source.close()
    destination.close()


def finish(processes) -> list[Answers]:
    answers = []
    for process in processes:
        text, errors = process.communicate()
        assert process.returncode == 0, errors
        answers.append(Answers.read(text))
    return answers


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_requests", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_two_writers_a_reader_checkpoints_and_copies(tmp_path, num_requests):
    path = tmp_path / "accounts.db"
    open_database(path).close()
    reader = open_reader(path)
    processes = [start(command(path, node_id, num_requests, 60)) for node_id in NODES]
    num_copies = 0
    with reader.transaction():
        seen = head(reader)
        while any(process.poll() is None for process in processes):
            target = tmp_path / f"copy-{num_copies}.db"
            copy(path, target)
            copied = open_database(target)
            check_sums(copied)
            copied.close()
            target.unlink()
            num_copies += 1
        assert head(reader) == seen
    reader.close()
    for node_id, answers in zip(NODES, finish(processes), strict=True):
        assert answers.last == "done"
        assert len(answers.settled) == num_requests
        check_after(path, answers, node_id=node_id)
    database = open_database(path)
    assert database.rows("PRAGMA integrity_check") == [("ok",)]
    num_entries = len(database.rows("SELECT 1 FROM entries WHERE request_id <> ''"))
    assert num_entries == 2 * 2 * num_requests
    database.close()
    assert num_copies
    print(f"{num_entries} entries by two writers, {num_copies} copies while they wrote")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("num_requests", "restarts"), [(60, 1), pytest.param(2000, 20, marks=pytest.mark.slow)]
)
def test_two_nodes_and_a_server_that_crashes(
    postgres_cluster, postgres_accounts, num_requests, restarts
):
    """Nothing acknowledged is lost; what was in the middle of a commit is done once."""
    processes = [start(command(postgres_accounts, node_id, num_requests)) for node_id in NODES]
    texts = ["" for _ in NODES]
    for _ in range(restarts):
        for index, process in enumerate(processes):
            assert process.stdout is not None
            for _ in range(20):  # some more answers, then the crash
                texts[index] += process.stdout.readline()
        postgres_cluster.stop(signal.SIGQUIT)
        postgres_cluster.start()
    refused = 0
    for index, (node_id, process) in enumerate(zip(NODES, processes, strict=True)):
        assert process.stdout is not None
        texts[index] += process.stdout.read()  # not communicate(), which forgets what is buffered
        assert process.wait() == 0
        answers = Answers.read(texts[index])
        assert answers.last == "done", texts[index][-1000:]
        assert len(answers.settled) == num_requests
        assert set(answers.refused) <= {"Disconnected"}
        refused += len(answers.refused)
        check_after(postgres_accounts, answers, node_id=node_id)
    print(f"{restarts} crashes of the server: {refused} works refused and done later")
