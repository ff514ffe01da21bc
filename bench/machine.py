"""What machine this is, how fast it reads and multiplies: the facts that every result carries."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody import _native
from tribody.ops.native import OPS

ROOT = Path(__file__).parent.parent

BEYOND_CACHES_BYTES = 1 << 30
# Larger than any last-level cache but those of whole server sockets; what is read from it comes
# from memory.  Small models may run faster than this: their weights stay in the cache.

PRODUCT = (512, 2048, 2048)
# Rows, columns and depth of the product that stands for the machine's int8 arithmetic: rows as in
# a step of a prompt, 4 MB of weights, so that memory does not matter.

CHUNK = 1 << 18  # float32 values per call: 1 MiB, so that the interpreter's share is below 1 %
SIMD_NAMES = (
    "amx_int8",
    "avx512_fp16",
    "avx512_bf16",
    "avx512_vnni",
    "avx512f",
    "avx_vnni",
    "avx2",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a measurement was made.  `isa`: what the processor has, not what an engine used."""

    cpu: str
    cores: int
    memory_gb: float
    isa: tuple[str, ...]
    kernel: str
    python: str


def describe() -> Machine:
    fields: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        name, _colon, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        isa=tuple(name for name in SIMD_NAMES if name in flags),
        kernel=platform.release(),
        python=platform.python_version(),
    )


def start_record(load: float) -> dict[str, object]:
    """What a run says of itself first.  `load`: of the machine, before the run added its own."""
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": round(load, 2),
        **asdict(describe()),
        "options": sys.argv[1:],
    }


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def commit() -> str:
    """The commit of this checkout, with "+" when files differ from it; "unknown" outside git."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return completed.stdout.strip() or "unknown"


def read_bandwidth(num_bytes: int, num_threads: int, seconds: float) -> float:
    """Bytes per second at which `num_threads` threads together read a buffer of that size.

    The best of as many passes as fit into `seconds` (at least two), after one that is not counted.
    A buffer of the weights' size says what a decode step can at best see; where it fits into a
    cache, this is the cache's speed, as it is the step's.
    """
    share = num_bytes // 4 // num_threads
    parts = [np.ones(share, np.float32) for _ in range(num_threads)]
    _pass_seconds(parts)
    best = min(_pass_seconds(parts), _pass_seconds(parts))
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        best = min(best, _pass_seconds(parts))
    return share * 4 * num_threads / best


def int8_rate(num_threads: int, seconds: float) -> float:
    """Multiply-adds per second of one large product in w8g32, the best of those in `seconds`.

    The machine can do at least this: it is a rate of our own kernel, not of its instructions.
    """
    rows, columns, depth = PRODUCT
    _native.set_num_threads(num_threads)
    x = np.ones((rows, depth), np.float32)
    weights = OPS.pack(np.ones((columns, depth), np.float32), "w8g32")
    out = np.empty((rows, columns), np.float32)
    best = float("inf")
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        OPS.linear(x, weights, None, None, out)
        best = min(best, time.perf_counter() - started)
    return rows * columns * depth / best


def _pass_seconds(parts: Sequence[NDArray[np.float32]]) -> float:
    threads = [threading.Thread(target=_read, args=(part,)) for part in parts]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def _read(part: NDArray[np.float32]) -> None:
    """Reads every value and releases the interpreter's lock while it does."""
    for first in range(0, len(part), CHUNK):
        part[first : first + CHUNK].max()
