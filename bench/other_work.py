"""How much of the processors something else took while a timing was made.

Counted by the kernel in ticks of 10 ms: good to a few per cent over a second.  Time that the host
of a virtual machine took away ("steal") counts as something else.  Where there is no /proc the
answer is 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

PROC = Path("/proc")
IDLE_FIELDS = (3, 4)  # of the "cpu" line of /proc/stat: idle and iowait
DISTURBED_SHARE = 0.1  # of the processors: with more taken by others a timing says little
QUIET_SECONDS = 1.0
COUNTED_FIELDS = 8  # user to steal; the guests after it are counted in user


def busy_ticks(proc: Path = PROC) -> int:
    """Of all processors since the machine started."""
    try:
        first = (proc / "stat").read_text().partition("\n")[0]
    except OSError:
        return 0
    ticks = [int(field) for field in first.split()[1 : 1 + COUNTED_FIELDS]]
    return sum(count for index, count in enumerate(ticks) if index not in IDLE_FIELDS)


def own_ticks(pids: Collection[int], proc: Path = PROC) -> int:
    """Of these processes, all their threads; a process that is gone counts as 0."""
    total = 0
    for pid in pids:
        try:
            stat = (proc / str(pid) / "stat").read_text()
        except OSError:
            continue
        # The name in brackets may hold spaces; utime and stime are fields 14 and 15 of the line.
        total += sum(int(field) for field in stat.rpartition(")")[2].split()[11:13])
    return total


class OtherWork:
    """Measures from its creation on."""

    def __init__(self, pids: Collection[int], proc: Path = PROC) -> None:
        self._pids, self._proc = pids, proc
        self._busy, self._own = busy_ticks(proc), own_ticks(pids, proc)
        self._started = time.perf_counter()

    def share(self) -> float:
        """Of all processors' time, what neither the given processes used nor was idle."""
        seconds = time.perf_counter() - self._started
        busy = busy_ticks(self._proc) - self._busy
        own = own_ticks(self._pids, self._proc) - self._own
        ticks = seconds * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
        return min(1.0, max(0.0, (busy - own) / ticks))


def wait_for_quiet(patience_seconds: float, pids: Collection[int]) -> None:
    """Until a second has passed with little other work, or patience is at its end."""
    deadline = time.perf_counter() + patience_seconds
    while time.perf_counter() < deadline:
        others = OtherWork(pids)
        time.sleep(QUIET_SECONDS)
        if others.share() <= DISTURBED_SHARE:
            return
