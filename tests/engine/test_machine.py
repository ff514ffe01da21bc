"""What the process may use: parsed from pseudo-files, a control group's limits included."""

import os
from pathlib import Path

import pytest

from tribody.engine.machine import available_bytes, physical_cores


def siblings(folder: Path, groups: list[str]) -> Path:
    for index, group in enumerate(groups):
        topology = folder / f"cpu{index}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{group}\n")
    return folder


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 2), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_physical_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    """Four hyper-threads of two cores; a quota of 1.5 cores rounds up."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    cpus = siblings(tmp_path / "cpu", ["0,2", "1,3", "0,2", "1,3"])
    (tmp_path / "cpu.max").write_text(quota)
    assert physical_cores(cpus, tmp_path) == expected


def test_cores_without_any_files(tmp_path: Path) -> None:
    assert 1 <= physical_cores(tmp_path, tmp_path) <= (os.cpu_count() or 1)


def test_available_bytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 3000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_bytes(meminfo, tmp_path) == 3000 * 1024
    (tmp_path / "memory.max").write_text("1500000\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 20000\n")
    assert available_bytes(meminfo, tmp_path) == 520_000
    (tmp_path / "memory.current").write_text("9000000\n")
    assert available_bytes(meminfo, tmp_path) == 0
