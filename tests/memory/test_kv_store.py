"""The byte half of KV memory: layouts, sizes and copies."""

import numpy as np
import pytest

from tribody.core.config import KVFormat
from tribody.memory.kv_store import KVStore, grouped_query_layout, latent_layout, page_bytes


@pytest.mark.parametrize(("kv_format", "size"), [("float32", 4), ("float16", 2)])
def test_sizes(kv_format: KVFormat, size: int) -> None:
    """DeepSeek-V3's latent: 61 layers of 576 values per position (70,272 bytes in 16 bits)."""
    assert page_bytes(latent_layout(61, 512, 64), kv_format) == 61 * 576 * 64 * size
    layout = grouped_query_layout(3, 2, 16)
    assert page_bytes(layout, kv_format) == 3 * 2 * (2 * 16) * 64 * size
    store = KVStore(layout, 5, kv_format)
    assert store.num_bytes == 5 * page_bytes(layout, kv_format)
    assert sum(pages.nbytes for pages in store.arrays) == store.num_bytes


def test_layout_is_that_of_the_operators() -> None:
    keys, values = KVStore(grouped_query_layout(3, 2, 16), 5, "float16").arrays
    assert (keys.shape, values.shape) == ((3, 5, 2, 16, 64), (3, 5, 2, 64, 16))
    (latents,) = KVStore(latent_layout(1, 32, 8), 5, "float16").arrays
    assert latents.shape == (1, 5, 64, 40)


def test_copies_touch_the_target_only_in_every_layer() -> None:
    store = KVStore(grouped_query_layout(2, 1, 4), 4, "float32")
    for pages in store.arrays:
        pages[:] = np.arange(4).reshape(4, 1, 1, 1) + 10 * np.arange(2).reshape(2, 1, 1, 1, 1)
    store.copy_pages([(1, 3), (3, 0)])
    for pages in store.arrays:
        assert pages[:, :, 0, 0, 0].tolist() == [[1, 1, 2, 1], [11, 11, 12, 11]]
