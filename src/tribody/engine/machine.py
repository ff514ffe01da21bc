"""What this process may use of the machine: cores and memory, as the operating system states them.

Containers see the host's totals but live under a control group's limits; both are read and the
smaller one counts.  Linux is read precisely; elsewhere the standard library's answer is taken.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")
MEMINFO = Path("/proc/meminfo")


def _text(path: Path) -> str:
    """A pseudo-file's content, "" when there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's marketing name, or its architecture where nothing says it."""
    for line in _text(cpuinfo).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def physical_cores(cpus: Path = CPUS, cgroup: Path = CGROUP) -> int:
    """Cores that this process may run on: hyper-threads of one core count once, and a control
    group's CPU quota limits it.  At least 1."""
    allowed = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    cores = {
        _text(cpus / f"cpu{index}" / "topology" / "thread_siblings_list").strip() or str(index)
        for index in allowed
    }
    quota, _, period = _text(cgroup / "cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return max(1, min(len(cores), math.ceil(int(quota) / int(period))))
    return max(1, len(cores))


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Memory that can be taken without pushing others out: MemAvailable, or what a control group
    leaves if that is less.  Its reclaimable file cache counts as free."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in _text(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            free = int(value.split()[0]) * 1024
    limit, used = _text(cgroup / "memory.max").strip(), _text(cgroup / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        statistics = dict(
            line.split(maxsplit=1)
            for line in _text(cgroup / "memory.stat").splitlines()
            if line.count(" ") == 1
        )
        reclaimable = int(statistics.get("inactive_file", "0"))
        free = min(free, int(limit) - int(used) + reclaimable)
    return max(0, free)


def give_back_memory() -> None:
    """Return to the system what was freed: after loading, glibc keeps up to the size of the weights
    for later."""
    gc.collect()
    with suppress(AttributeError, OSError):  # other C libraries have no such call, nor that habit
        ctypes.CDLL(None).malloc_trim(0)
