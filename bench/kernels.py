"""Speed of the native products over the shapes of SmolLM2-135M, as JSON lines.

    PYTHONPATH=src python bench/kernels.py [--isa avx2] [--threads 2] [--rows 1 8]
                                           [--format w8g32 w4m32]

Each shape is measured over as many matrices as the model has layers, so that weights come from
beyond the core's own caches, as in decoding.  A pass goes over all of them once.  Formats and
instruction sets take turns, pass by pass, so that what else the machine does meets them all alike;
the first pass of each is not counted.  The median and the spread stand in each line, beside the
best pass, which is what a machine shared with others can still reproduce.  `speed_ratio` is the
median over rounds of the first format's time over this one's, same level, same round.
`bandwidth_fraction` sets the rate of weight bytes in the best pass against the best read rate of
the same threads over a 160 MB buffer, measured before and after.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import machine
from tribody import _native
from tribody.core.config import WeightFormat
from tribody.ops.native import OPS
from tribody.ops.table import F32, Matrix
from tribody.precision.formats import FORMATS, matrix_bytes

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 576, 1536, 30, 49152
BANDWIDTH_SECONDS = 0.5

# name -> (N, K) of the matrices that one call reads, and how many such calls a step makes
SHAPES: dict[str, tuple[tuple[tuple[int, int], ...], int]] = {
    "qkv": (((960, HIDDEN),), LAYERS),
    "o": (((HIDDEN, HIDDEN),), LAYERS),
    "mlp": (((2 * INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)), LAYERS),
    "head": (((VOCABULARY, HIDDEN),), 1),
    "step": ((), 1),  # all of them, in the order of a decode step
}


@dataclass(frozen=True, slots=True)
class Work:
    """One pass: calls in order, and what they read and compute for one row."""

    calls: tuple[Callable[[], None], ...]
    weight_bytes: int
    macs: int

    def seconds(self) -> float:
        started = time.perf_counter()
        for call in self.calls:
            call()
        return time.perf_counter() - started


def build(name: str, rows: int, weight_format: WeightFormat, rng: np.random.Generator) -> Work:
    _, repeats = SHAPES[name]
    if name == "step":
        layers = [build_one(n, rows, weight_format, rng) for n in ("qkv", "o", "mlp") * LAYERS]
        parts = [*layers, build_one("head", rows, weight_format, rng)]
    else:
        parts = [build_one(name, rows, weight_format, rng) for _ in range(repeats)]
    return Work(
        calls=tuple(call for part in parts for call in part.calls),
        weight_bytes=sum(part.weight_bytes for part in parts),
        macs=sum(part.macs for part in parts),
    )


def build_one(name: str, rows: int, weight_format: WeightFormat, rng: np.random.Generator) -> Work:
    """A single call on matrices of its own."""
    shapes, _ = SHAPES[name]
    matrices = [
        OPS.pack(rng.standard_normal(shape, dtype=np.float32), weight_format) for shape in shapes
    ]
    norm = np.ones(HIDDEN, np.float32)
    x: F32 = rng.standard_normal((rows, HIDDEN), dtype=np.float32)
    return Work(
        calls=(call_of(matrices, x, norm),),
        weight_bytes=sum(matrix_bytes(shape, weight_format) for shape in shapes),
        macs=sum(n * k for n, k in shapes),
    )


def call_of(matrices: Sequence[Matrix], x: F32, norm: F32) -> Callable[[], None]:
    if len(matrices) == 2:
        gate_up, down = matrices
        return lambda: OPS.norm_mlp(x, norm, 1e-5, gate_up, down)
    out = np.empty((len(x), matrices[0].shape[0]), np.float32)
    return lambda: OPS.norm_linear(x, norm, 1e-5, matrices[0], None, out)


Key = tuple[str, WeightFormat]  # instruction set and format
Passes = dict[Key, list[float]]


def measure(works: dict[WeightFormat, Work], isas: Sequence[str], seconds: float) -> Passes:
    """Seconds of each pass, in rounds over all formats and levels for `seconds` times their number.

    At least four rounds, the first of which is dropped.
    """
    keys: list[Key] = [(isa, weight_format) for isa in isas for weight_format in works]
    taken: Passes = {key: [] for key in keys}
    deadline = time.perf_counter() + seconds * len(keys)
    rounds = 0
    while rounds < 4 or time.perf_counter() < deadline:
        for isa, weight_format in keys:
            _native.set_isa(isa)
            taken[isa, weight_format].append(works[weight_format].seconds())
        rounds += 1
    return {key: times[1:] for key, times in taken.items()}


def call_nanoseconds() -> float:
    """What one call of a small operator costs, interpreter included."""
    x, weight = np.zeros((1, 8), np.float32), np.ones(8, np.float32)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1000):
            OPS.rms_norm(x, weight, 1e-5, x)
        best = min(best, (time.perf_counter() - started) / 1000)
    return best * 1e9


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--isa", nargs="*", default=[_native.current_isa()])
    parser.add_argument("--threads", type=int, default=_native.num_threads())
    parser.add_argument("--format", nargs="*", default=["w8g32"], choices=list(FORMATS))
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--shape", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=1.0, help="of passes for each line, about")
    return parser.parse_args()


def record_of(work: Work, rows: int, taken: list[float], first: list[float]) -> dict[str, float]:
    best = min(taken)
    ratios = [theirs / own for theirs, own in zip(first, taken, strict=True)]
    return {
        "rows": rows,
        "median_ms": round(statistics.median(taken) * 1e3, 3),
        "best_ms": round(best * 1e3, 3),
        "worst_ms": round(max(taken) * 1e3, 3),
        "passes": len(taken),
        "speed_ratio": round(statistics.median(ratios), 3),
        "gb_per_s": round(work.weight_bytes / best / 1e9, 2),
        "gmac_per_s": round(rows * work.macs / best / 1e9, 1),
    }


def main() -> None:
    options = arguments()
    _native.set_num_threads(options.threads)
    where = {
        "commit": machine.commit(),
        "cpu": machine.describe().cpu,
        "threads": options.threads,
        "call_ns": round(call_nanoseconds()),
    }
    rng = np.random.default_rng(1)
    for rows in options.rows:
        for name in options.shape:
            works = {f: build(name, rows, f, rng) for f in options.format}
            before = _native.memory_bandwidth(BANDWIDTH_SECONDS)
            taken = measure(works, options.isa, options.seconds)
            bandwidth = max(before, _native.memory_bandwidth(BANDWIDTH_SECONDS))
            for (isa, weight_format), times in taken.items():
                work = works[weight_format]
                first = taken[isa, options.format[0]]
                record = {
                    **where,
                    "isa": isa,
                    "format": weight_format,
                    "shape": name,
                    **record_of(work, rows, times, first),
                    "bandwidth_gb_per_s": round(bandwidth / 1e9, 2),
                    "bandwidth_fraction": round(work.weight_bytes / min(times) / bandwidth, 3),
                }
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
