"""The byte half of KV memory: one array of all layers' pages per kind, in the operators' layouts.

It knows no requests and no ids beyond the page's index.  Arrays come zeroed from the operating
system (calloc), so a page takes physical memory only once it is written.  They start where a page
of the machine's memory does: no vector of a row then lies across two cache lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from tribody.core.config import PAGE_SIZE, KVFormat
from tribody.ops.table import Pages

DTYPES = {"float32": np.float32, "float16": np.float16}
ALIGNMENT = 4096  # bytes: a page of the machine's memory


@dataclass(frozen=True, slots=True)
class KVLayout:
    """What one model stores per page: in every layer, arrays of these shapes (without P)."""

    num_layers: int
    page_shapes: tuple[tuple[int, ...], ...]


def grouped_query_layout(num_layers: int, num_kv_heads: int, head_dim: int) -> KVLayout:
    """Keys (Hkv, D, 64), positions innermost, and values (Hkv, 64, D)."""
    keys = (num_kv_heads, head_dim, PAGE_SIZE)
    return KVLayout(num_layers, (keys, (num_kv_heads, PAGE_SIZE, head_dim)))


def latent_layout(num_layers: int, kv_lora_rank: int, qk_rope_head_dim: int) -> KVLayout:
    """One row (R + Dr) per position: the normalised latent, then the rotated key."""
    return KVLayout(num_layers, ((PAGE_SIZE, kv_lora_rank + qk_rope_head_dim),))


def page_bytes(layout: KVLayout, kv_format: KVFormat) -> int:
    """Bytes that one page takes in all layers together."""
    values = sum(math.prod(shape) for shape in layout.page_shapes)
    return layout.num_layers * values * np.dtype(DTYPES[kv_format]).itemsize


def zeroed(shape: tuple[int, ...], dtype: DTypeLike) -> Pages:
    """Zeros from an address that ALIGNMENT divides."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


class KVStore:
    """The pages of one engine.  `arrays` are (L, P, *shape), one for each of a layout's shapes."""

    def __init__(self, layout: KVLayout, num_pages: int, kv_format: KVFormat) -> None:
        dtype = DTYPES[kv_format]
        self.num_pages = num_pages
        self.num_bytes = num_pages * page_bytes(layout, kv_format)
        self.arrays: tuple[Pages, ...] = tuple(
            zeroed((layout.num_layers, num_pages, *shape), dtype) for shape in layout.page_shapes
        )

    def copy_pages(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Copy page `source` onto page `target` in every layer, pair after pair."""
        for source, target in pairs:
            for pages in self.arrays:
                pages[:, target] = pages[:, source]
