"""The prefix tree and the page tables over it: who may share, and what goes first."""

from __future__ import annotations

from tribody.memory.kv_memory import KVMemory
from tribody.memory.pages import PagePool
from tribody.memory.prefix import PrefixTree, page_key, root_key

SIZE = 4


def computed(memory: KVMemory, tokens: list[int], salt: str = "", num_prompt: int = 99) -> int:
    """Open, fill and close a table over `tokens`; returns the tokens found in the cache."""
    table = memory.open(tokens, salt)
    hit = len(table.pages) * SIZE
    assert memory.grow(table, hit, len(tokens)) is not None
    memory.commit(table, tokens, len(tokens), num_prompt)
    memory.close(table)
    memory.check()
    return hit


def test_keys_depend_on_everything_before_them() -> None:
    roots = {root_key(b"w", "a"), root_key(b"w", "b"), root_key(b"v", "a"), root_key(b"wa", "")}
    assert len(roots) == 4
    parent = root_key(b"w", "a")
    first = page_key(parent, [1, 2, 3, 4])
    assert first != page_key(parent, [1, 2, 3, 5])
    assert page_key(first, [1, 2, 3, 4]) != first
    assert page_key(parent, [1, 2, 3, 4]) == first


def test_prefix_is_found_and_never_across_salts() -> None:
    memory = KVMemory(16, SIZE, b"w")
    tokens = list(range(10))
    assert computed(memory, tokens) == 0
    assert computed(memory, tokens) == 8
    assert computed(memory, [*tokens[:6], 99, 98, 97]) == 4
    assert computed(memory, tokens, salt="other") == 0


def test_at_least_one_token_is_left_to_compute() -> None:
    memory = KVMemory(16, SIZE, b"w")
    computed(memory, list(range(8)))
    assert computed(memory, list(range(8))) == 4


def test_least_recently_used_leaves_go_first() -> None:
    memory = KVMemory(4, SIZE, b"w")
    a, b = [1] * 8, [2] * 8
    computed(memory, [*a, 0][:8])  # two pages cached
    computed(memory, [*b, 0][:8])  # two more: the pool is full of cached pages
    assert computed(memory, [*a, 5]) == 8  # touches a, evicts b's leaf
    assert computed(memory, [*b, 5]) <= 4
    memory.check()


def test_same_tokens_in_another_form_stay_private() -> None:
    """Pages of generated tokens (MLA's absorbed form) are not swapped for prompt-form ones."""
    memory = KVMemory(16, SIZE, b"w")
    tokens = list(range(12))
    one, two, three = (memory.open([50 + i, *tokens], "") for i in range(3))
    for table in (one, two, three):
        for_all = [7, *tokens]
        assert memory.grow(table, 0, 13) is not None
        memory.commit(table, for_all, 13, 13 if table is not two else 5)
    assert one.pages[:3] == three.pages[:3], "same form: one copy is enough"
    assert two.pages[0] == one.pages[0], "the first page is all prompt in both"
    assert two.pages[1] != one.pages[1]
    assert two.detached
    memory.check()
    for table in (one, two, three):
        memory.close(table)
    memory.check()
    assert memory.pool.num_used == 0


def test_eviction_bookkeeping_does_not_grow_without_end() -> None:
    memory = KVMemory(8, SIZE, b"w")
    for _ in range(3000):
        computed(memory, [1] * 9)
    assert len(memory.tree._heap) < 200


def test_evict_on_an_empty_tree_finds_nothing() -> None:
    pool = PagePool(2)
    assert PrefixTree().evict(pool.holder_counts) is None
