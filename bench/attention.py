"""Speed of attention over pages, as JSON lines.

    PYTHONPATH=src python bench/attention.py [--isa avx2] [--threads 2] [--case smollm2-decode-1024]

A pass calls the operator once for each of as many layers as are named, each with pages of its own,
so that keys and values come from beyond the core's own caches, as in decoding.  The first pass is
not counted.  `gb_per_s`: the bytes of keys and values (or latents) of all positions attended to,
each counted once; `gflop_per_s`: two floating-point operations for each multiply-add of scores and
weighted sums (the products with MLA's weights among them), as the algorithm needs them, masked
positions not counted.  Both from the best pass; median and worst stand beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import machine
from tribody import _native
from tribody.ops.native import OPS
from tribody.ops.table import F32, AttentionBatch

PAGE = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """The same rows in each of `sequences` sequences, the first of them at position `start`."""

    sequences: int
    start: int
    rows: int

    @property
    def length(self) -> int:
        return self.start + self.rows

    @property
    def pairs(self) -> int:
        """(row, position) pairs."""
        own = self.rows * (self.rows + 1) // 2
        return self.sequences * (self.rows * self.start + own)

    def batch(self, rng: np.random.Generator) -> AttentionBatch:
        num_pages = -(-self.length // PAGE)
        tables = rng.permutation(self.sequences * num_pages).astype(np.int32)
        return AttentionBatch(
            np.arange(self.sequences + 1, dtype=np.int32) * self.rows,
            np.full(self.sequences, self.start, np.int32),
            tables.reshape(self.sequences, num_pages),
        )


@dataclass(frozen=True, slots=True)
class Work:
    """One pass, what it reads, and its floating-point operations."""

    call: Callable[[int], None]  # of a layer
    layers: int
    kv_bytes: int
    flops: int

    def seconds(self) -> float:
        started = time.perf_counter()
        for layer in range(self.layers):
            self.call(layer)
        return time.perf_counter() - started


def random_pages(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> F32:
    """A page of random numbers, repeated: what is timed does not depend on the values."""
    page = rng.standard_normal(shape[1:], dtype=np.float32).astype(dtype)
    return np.broadcast_to(page, shape).copy()


@dataclass(frozen=True, slots=True)
class Gqa:
    heads: tuple[int, int, int]  # query heads, key-value heads, head_dim
    layers: int

    def work(self, rows: Rows, dtype: str, rng: np.random.Generator) -> Work:
        num_heads, num_kv_heads, dim = self.heads
        batch = rows.batch(rng)
        shape = (self.layers, batch.page_tables.size, num_kv_heads)
        keys = [random_pages((*shape[1:], dim, PAGE), dtype, rng) for _ in range(self.layers)]
        values = [random_pages((*shape[1:], PAGE, dim), dtype, rng) for _ in range(self.layers)]
        total = rows.sequences * rows.rows
        q = rng.standard_normal((total, (num_heads + 2 * num_kv_heads) * dim), dtype=np.float32)
        out = np.empty((total, num_heads * dim), np.float32)

        def call(layer: int) -> None:
            OPS.attend(q, self.heads, (keys[layer], values[layer]), batch, dim**-0.5, out)

        position_bytes = 2 * num_kv_heads * dim * np.dtype(dtype).itemsize
        return Work(
            call,
            self.layers,
            self.layers * rows.sequences * rows.length * position_bytes,
            self.layers * rows.pairs * num_heads * dim * 4,
        )


@dataclass(frozen=True, slots=True)
class Mla:
    head_dims: tuple[int, int, int]
    rank: int
    value_dim: int
    layers: int
    absorbed: bool

    def work(self, rows: Rows, dtype: str, rng: np.random.Generator) -> Work:
        num_heads, nope, rope = self.head_dims
        batch = rows.batch(rng)
        shape = (batch.page_tables.size, PAGE, self.rank + rope)
        pages = [random_pages(shape, dtype, rng) for _ in range(self.layers)]
        total = rows.sequences * rows.rows
        q = rng.standard_normal((total, num_heads * (nope + rope)), dtype=np.float32)
        out = np.empty((total, num_heads * self.value_dim), np.float32)
        scale = (nope + rope) ** -0.5
        if self.absorbed:
            w_uk, w_uv = (
                OPS.pack(rng.standard_normal(s, dtype=np.float32), "w8g32")
                for s in ((num_heads, self.rank, nope), (num_heads, self.value_dim, self.rank))
            )

            def call(layer: int) -> None:
                OPS.mla_attend_absorbed(
                    q, self.head_dims, w_uk, w_uv, pages[layer], batch, scale, out
                )

            products = total * (nope + self.value_dim)
            width = 2 * self.rank + rope
        else:
            columns = num_heads * (nope + self.value_dim)
            kv_b = OPS.pack(rng.standard_normal((columns, self.rank), dtype=np.float32), "w8g32")

            def call(layer: int) -> None:
                OPS.mla_attend_expanded(q, self.head_dims, kv_b, pages[layer], batch, scale, out)

            products = rows.sequences * rows.length * (nope + self.value_dim)
            width = nope + rope + self.value_dim
        flops = 2 * num_heads * (products * self.rank + rows.pairs * width)
        position_bytes = (self.rank + rope) * np.dtype(dtype).itemsize
        return Work(
            call,
            self.layers,
            self.layers * rows.sequences * rows.length * position_bytes,
            self.layers * flops,
        )


SMOLLM2 = Gqa((9, 3, 64), 30)
LARGE = Gqa((32, 8, 128), 4)  # the heads of Llama-3-8B and Qwen3-8B
LITE = (16, 128, 64)  # DeepSeek-V2-Lite
CASES: dict[str, tuple[Gqa | Mla, Rows]] = {
    "smollm2-decode-128": (SMOLLM2, Rows(1, 127, 1)),
    "smollm2-decode-1024": (SMOLLM2, Rows(1, 1023, 1)),
    "smollm2-decode-4096": (SMOLLM2, Rows(1, 4095, 1)),
    "smollm2-decode-16x128": (SMOLLM2, Rows(16, 127, 1)),
    "smollm2-decode-8x1024": (SMOLLM2, Rows(8, 1023, 1)),
    "smollm2-prefill-512": (SMOLLM2, Rows(1, 0, 512)),
    "smollm2-prefill-2048": (SMOLLM2, Rows(1, 0, 2048)),
    "smollm2-prefill-512-at-1536": (SMOLLM2, Rows(1, 1536, 512)),
    "large-decode-4096": (LARGE, Rows(1, 4095, 1)),
    "large-prefill-512-at-1536": (LARGE, Rows(1, 1536, 512)),
    "mla16-absorbed-1024": (Mla(LITE, 512, 128, 4, True), Rows(1, 1023, 1)),
    "mla16-absorbed-4096": (Mla(LITE, 512, 128, 4, True), Rows(1, 4095, 1)),
    "mla16-absorbed-8x1024": (Mla(LITE, 512, 128, 4, True), Rows(8, 1023, 1)),
    "mla128-absorbed-4096": (Mla((128, 128, 64), 512, 128, 1, True), Rows(1, 4095, 1)),
    "mla16-expanded-512-at-1536": (Mla(LITE, 512, 128, 1, False), Rows(1, 1536, 512)),
}


def measure(work: Work, seconds: float) -> list[float]:
    work.seconds()
    taken = [work.seconds() for _ in range(3)]
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        taken.append(work.seconds())
    return taken


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--isa", nargs="*", default=[_native.current_isa()])
    parser.add_argument("--threads", type=int, default=_native.num_threads())
    parser.add_argument("--kv", default="float16", choices=["float16", "float32"])
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=1.0, help="of passes for each line")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    _native.set_num_threads(options.threads)
    where = {
        "commit": machine.commit(),
        "cpu": machine.describe().cpu,
        "threads": options.threads,
        "kv": options.kv,
    }
    for case in options.case:
        model, rows = CASES[case]
        work = model.work(rows, options.kv, np.random.default_rng(1))
        for isa in options.isa:
            _native.set_isa(isa)
            taken = measure(work, options.seconds)
            best = min(taken)
            record = {
                **where,
                "isa": isa,
                "case": case,
                "layers": work.layers,
                "median_ms": round(statistics.median(taken) * 1e3, 3),
                "best_ms": round(best * 1e3, 3),
                "worst_ms": round(max(taken) * 1e3, 3),
                "passes": len(taken),
                "gb_per_s": round(work.kv_bytes / best / 1e9, 2),
                "gflop_per_s": round(work.flops / best / 1e9, 1),
            }
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
