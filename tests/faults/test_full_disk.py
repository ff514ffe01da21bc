"""The database on a disk that is too small: refused while it is full, resumed by itself."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.books import Answers, check_after, command, drive, start

NUM_REQUESTS = 240  # whose log is more than 4 MiB
ENOUGH_KIB = 65_536


@contextmanager
def disk(folder: Path, size_kib: int) -> Iterator[Path]:
    """A file system of this size in memory.  Skips where it cannot be mounted."""
    folder.mkdir()
    options = f"size={size_kib}k,mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a disk, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={ENOUGH_KIB}k", folder], check=True)


def fill(folder: Path) -> tuple[Answers, str]:
    """The driver's answers, and where it was when the disk was full: there is more room then."""
    path = folder / "accounts.db"
    process = start(command(path, "node", NUM_REQUESTS))
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("refused DiskFull") and text.count("refused DiskFull") == 20:
            enlarge(folder)
    assert process.wait() == 0
    answers = Answers.read(text)
    if answers.last != "closed":
        return answers, "full while running"
    enlarge(folder)
    return drive(command(path, "node", NUM_REQUESTS)), "too full to open"


def check(folder: Path, size_kib: int) -> str:
    with disk(folder, size_kib):
        answers, where = fill(folder)
        assert answers.last == "done"
        assert len(answers.settled) == NUM_REQUESTS
        if where == "full while running":
            assert set(answers.refused) == {"DiskFull"}
        check_after(folder / "accounts.db", answers)
    return where


@pytest.mark.parametrize("size_kib", [64, 1024])
def test_a_full_disk(tmp_path, size_kib):
    check(tmp_path / "disk", size_kib)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_disks_of_many_sizes(tmp_path):
    seen = Counter(check(tmp_path / "disk", size_kib) for size_kib in range(64, 4097, 32))
    assert set(seen) == {"too full to open", "full while running"}
    print(f"disks of 64 KiB to 4 MiB: {dict(seen)}")
