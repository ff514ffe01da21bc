"""A write-ahead log cut off or with flipped bits: a consistent prefix, or a clear refusal."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from tests.faults.books import check_after, check_sums, command, drive, head
from tribody.core.errors import BadConfig, StorageFailed
from tribody.storage.database import Row
from tribody.storage.opening import open_database

SEED = 20_261_122


class Victim(NamedTuple):
    """A database as a killed process leaves it, and every end that its chain ever had."""

    kind: str
    folder: Path
    heads: set[Row]


def copy_out(path: Path) -> None:
    """All of the log into the file, as before a kill that comes before the next commit."""
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # now it knows that there is a log
    pages, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    assert pages == copied > 0
    connection.close()


@pytest.fixture(params=["one log", "a log that began again", "a log that was copied"])
def victim(request, tmp_path) -> Victim:
    folder = tmp_path / "victim"
    folder.mkdir()
    checkpoint_pages = 8192 if request.param == "one log" else 60
    answers = drive(command(folder / "accounts.db", "node", 60, checkpoint_pages))
    assert answers.last == "done"
    if request.param == "a log that was copied":
        copy_out(folder / "accounts.db")
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    check_after(whole / "accounts.db", answers)
    database = open_database(whole / "accounts.db")
    heads: set[Row] = {(0, ""), *database.rows("SELECT sequence, hash FROM entries")}
    database.close()
    return Victim(request.param, folder, heads)


def damaged(log: bytes, chance: random.Random) -> tuple[str, bytes]:
    """The log's bytes with one of these things done to them."""
    what = chance.choice(["cut off", "bit flipped", "bits flipped", "page of zeroes", "header"])
    data = bytearray(log)
    if what == "cut off":
        return what, log[: chance.randrange(len(log))]
    if what == "page of zeroes":
        at = chance.randrange(0, len(log), 4096)
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
        return what, bytes(data)
    within = 32 if what == "header" else len(log)
    for _ in range(chance.randint(2, 50) if what == "bits flipped" else 1):
        data[chance.randrange(within)] ^= 1 << chance.randrange(8)
    return what, bytes(data)


def check(victim: Victim, folder: Path, chance: random.Random) -> tuple[str, str]:
    folder.mkdir()
    path = folder / "accounts.db"
    shutil.copy(victim.folder / "accounts.db", path)
    what, log = damaged((victim.folder / "accounts.db-wal").read_bytes(), chance)
    Path(f"{path}-wal").write_bytes(log)
    try:
        database = open_database(path, examine=True)  # as the Writer does
    except (BadConfig, StorageFailed):
        return what, "refused"
    try:
        assert head(database) in victim.heads
        check_sums(database)
    finally:
        database.close()
        shutil.rmtree(folder)
    return what, "opened"


@pytest.mark.parametrize("rounds", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_a_damaged_log(victim, tmp_path, rounds):
    seen: Counter[tuple[str, str]] = Counter()
    for number in range(rounds):
        seen[check(victim, tmp_path / f"{number}", random.Random(SEED + number))] += 1
    print(f"seed {SEED}, {victim.kind}: {dict(sorted(seen.items()))}")
    refused = sum(count for (_, end), count in seen.items() if end == "refused")
    if victim.kind == "one log":
        assert refused == 0
    if victim.kind == "a log that was copied" and rounds > 100:  # few need not hit it
        assert refused > 0
