"""What must be true of the books after any fault, whatever was hurt; and how the driver is run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.billing.ledger_cases import COST
from tribody.billing import ledger
from tribody.storage.database import Database, Row
from tribody.storage.opening import open_database

ROOT = Path(__file__).parents[2]
RECOVERED_MS = 1_800_000_000_000


class Answers(NamedTuple):
    """What the driver was told."""

    reserved: list[str]
    settled: dict[str, int]
    refused: list[str]
    last: str

    @staticmethod
    def read(text: str) -> Answers:
        lines = [line.split(" ") for line in text.splitlines()]
        return Answers(
            [words[1] for words in lines if words[0] == "reserved"],
            {words[1]: int(words[2]) for words in lines if words[0] == "settled"},
            [words[1] for words in lines if words[0] in ("refused", "closed")],
            lines[-1][0] if lines else "",
        )


def command(
    where: Path | str, node_id: str, num_requests: int, checkpoint_pages: int = 8192
) -> list[str]:
    words = (where, node_id, num_requests, checkpoint_pages)
    return [sys.executable, "-m", "tests.faults.driver", *map(str, words)]


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def drive(arguments: Sequence[str]) -> Answers:
    """From beginning to end."""
    process = start(arguments)
    answers, errors = process.communicate()
    assert process.returncode == 0, errors
    return Answers.read(answers)


def check_after(where: Path | str, answers: Answers, *, node_id: str = "node") -> None:
    """Opens what is left, recovers and looks at all of it.

    Nothing acknowledged is missing, nothing is there twice, everything adds up.
    """
    database = open_database(where)
    try:
        check_entries(database, answers)
        with database.transaction():
            ledger.recover(database, node_id, RECOVERED_MS)
        assert ledger.open_reservations(database, node_id) == []
        check_sums(database)
        with database.transaction():
            assert ledger.recover(database, node_id, RECOVERED_MS) == 0
    finally:
        database.close()


def check_entries(database: Database, answers: Answers) -> None:
    kinds = Counter(database.rows("SELECT kind, request_id FROM entries WHERE request_id <> ''"))
    assert [what for what, count in kinds.items() if count > 1] == []
    assert [i for i in answers.reserved if ("reserve", i) not in kinds] == []
    charges = {str(i): m for i, m in database.rows("SELECT request_id, charged_micro FROM usage")}
    assert {i: charges.get(i) for i in answers.settled} == answers.settled


def check_sums(database: Database) -> None:
    """The ledger's own verification, and the plainest sums beside it."""
    report = ledger.verify(database)
    assert report.problems == []
    assert (
        database.rows("SELECT currency FROM postings GROUP BY currency HAVING sum(micro) <> 0")
        == []
    )
    ((requests, total),) = database.rows(
        "SELECT count(*), coalesce(sum(charged_micro), 0) FROM usage WHERE outcome = 'finished'"
    )
    assert isinstance(requests, int)
    assert total == requests * COST
    earned = database.rows(
        "SELECT coalesce(sum(micro), 0) FROM balances WHERE account LIKE 'income/%'"
    )
    assert earned == [(total,)]


def head(database: Database) -> Row:
    """How far the chain goes, and its last hash."""
    return database.rows(
        "SELECT sequence, hash FROM entries UNION ALL SELECT 0, '' ORDER BY 1 DESC LIMIT 1"
    )[0]
