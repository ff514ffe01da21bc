"""What others take of the machine, from the kernel's counters."""

import os
import time

import pytest

from other_work import OtherWork, busy_ticks, own_ticks


def test_counters_are_read(tmp_path) -> None:
    (tmp_path / "stat").write_text("cpu  10 20 30 4000 500 6 7 8 90 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert busy_ticks(tmp_path) == 10 + 20 + 30 + 6 + 7 + 8
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(3, 53))
    (tmp_path / "7" / "stat").write_text(f"7 (a (b) c) {fields}")
    assert own_ticks([7, 8], tmp_path) == 14 + 15
    assert busy_ticks(tmp_path / "none") == 0


def test_the_share_of_others(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sysconf", lambda _name: 100)
    now = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 0 0 0 0 0 0 0 0\n")
    work = OtherWork([], tmp_path)
    stat.write_text("cpu 150 0 0 999 0 0 0 0 0 0\n")
    now[0] += 1.0
    assert work.share() == pytest.approx(0.25)  # half a second of two processors' one second
