"""Each write and each fsync of the database fails once: with EIO, then with ENOSPC.

strace counts the calls of each kind by itself and makes the one fail that `when=` names; the
driver's own output is not counted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.books import Answers, check_after, command, drive

CALLS = ("write", "writev", "pwrite64", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate")
NUM_REQUESTS = 16
CHECKPOINT_PAGES = 60  # so that there are checkpoints among the first 300 calls
# The call, its file's name, what it was answered with.
INJECTED = re.compile(r"^\d+ +(\w+)\(\d+<([^>]*)>.*= -1 (\w+) .*\(INJECTED\)$", re.MULTILINE)


def strace() -> str:
    """Skips where it is not installed, or not allowed to watch processes."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    if subprocess.run([found, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace may not watch processes here")
    return found


class Run(NamedTuple):
    answers: Answers
    call: str  # "" when there was no such call any more
    file: str


def run(folder: Path, error: str, call: str, number: int) -> Run:
    """The driver, with the `number`th such call on the database failing."""
    folder.mkdir()
    path = folder / "accounts.db"
    watched = [folder, path, f"{path}-wal", f"{path}-shm"]
    trace = folder.parent / f"{folder.name}.trace"
    answers = drive(
        [
            *(strace(), "-f", "-y", "--seccomp-bpf", "-s", "0", "-o", str(trace)),
            *(option for name in watched for option in ("-P", str(name))),
            *("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"),
            *command(path, "node", NUM_REQUESTS, CHECKPOINT_PAGES),
        ]
    )
    injected = INJECTED.findall(trace.read_text())
    trace.unlink()
    if not injected:
        return Run(answers, "", "")
    assert [(name, told) for name, _, told in injected] == [(call, error)]
    return Run(answers, call, Path(injected[0][1]).name)


def check(path: Path, error: str, done: Run) -> str:
    """What became of it.  Nothing acknowledged is lost whatever it was."""
    answers = done.answers
    check_after(path / "accounts.db", answers)
    if done.file == path.name:
        # SQLite does not look at what fsync of a folder says, of which it makes two at the start.
        assert answers.last == "done"
        return "folder"
    if error == "EIO" or done.call != "pwrite64":
        assert answers.last in ("stopped", "closed")
    elif done.file != "accounts.db-shm" and answers.last != "closed":
        assert answers.last == "done"  # by itself, when there was room again
    return answers.last if answers.refused or answers.last != "done" else "not noticed"


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(("call", "number"), [("pwrite64", 200), ("fdatasync", 9)])
def test_a_call_fails(tmp_path, error, call, number):
    done = run(tmp_path / "data", error, call, number)
    assert done.call
    check(tmp_path / "data", error, done)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_every_call_fails(tmp_path, error):
    """All that there are, which are more than 300."""
    seen: Counter[tuple[str, ...]] = Counter()
    for call in CALLS:
        number = 0
        while True:
            number += 1
            folder = tmp_path / f"{call}-{number}"
            done = run(folder, error, call, number)
            if not done.call:
                break
            file = "folder" if done.file == folder.name else done.file
            seen[call, file, check(folder, error, done)] += 1
            shutil.rmtree(folder)
        assert done.answers.last == "done"
    assert seen.total() > 300
    for (call, file, what), count in sorted(seen.items()):
        print(f"{error} {call} of {file}: {what} {count}")
