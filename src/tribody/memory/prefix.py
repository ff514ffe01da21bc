"""The prefix tree: which full pages of tokens are at hand, found by a chain of hashes.

A page's key is a hash of its parent's key and its token ids; the first parent, the root, is a hash
of the model's fingerprint and the request's cache salt.  So equal keys mean equal tokens from
position 0 on, the same weights and formats, and the same tenant.  Only leaves are evicted, least
recently used first.  Integers and hashes only.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Sequence

KEY_BYTES = 16  # 128 bits: a collision by accident stays out of reach at any number of pages


def root_key(fingerprint: bytes, salt: str) -> bytes:
    """The parent of the first page.  Different salts never meet."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    digest.update(len(fingerprint).to_bytes(8, "little") + fingerprint)
    digest.update(salt.encode("utf-8", "surrogatepass"))
    return digest.digest()


def page_key(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The key of a full page that follows the page `parent`."""
    return hashlib.blake2b(
        array("q", token_ids).tobytes(), key=parent, digest_size=KEY_BYTES
    ).digest()


class _Node:
    __slots__ = ("form", "key", "last_used", "num_children", "page", "parent")

    def __init__(self, key: bytes, page: int, parent: _Node | None, form: int) -> None:
        self.key = key
        self.page = page
        self.parent = parent
        self.form = form
        self.num_children = 0
        self.last_used = 0


class PrefixTree:
    """Keys to pages.  It decides what to evict; the pool counts who holds what."""

    def __init__(self) -> None:
        self._nodes: dict[bytes, _Node] = {}
        self._by_page: dict[int, _Node] = {}
        self._heap: list[tuple[int, bytes]] = []  # may hold stale entries; checked when popped
        self._now = 0

    def find(self, key: bytes) -> tuple[int, int] | None:
        """(page, form) kept under this key."""
        node = self._nodes.get(key)
        return None if node is None else (node.page, node.form)

    def insert(self, parent: bytes, key: bytes, page: int, form: int) -> None:
        """Keep `page` under `key`; the parent is a key of this tree or a root."""
        assert key not in self._nodes
        above = self._nodes.get(parent)
        node = _Node(key, page, above, form)
        if above is not None:
            above.num_children += 1
        self._nodes[key] = node
        self._by_page[page] = node

    def let_go(self, page: int) -> None:
        """No sequence holds this page any more: from now on it may be evicted."""
        node = self._by_page[page]
        self._now += 1
        node.last_used = self._now
        heapq.heappush(self._heap, (node.last_used, node.key))
        if len(self._heap) > 4 * len(self._nodes) + 64:  # mostly stale: keep the true entries
            current = {(n.last_used, n.key) for n in self._nodes.values()}
            self._heap = sorted(current.intersection(self._heap))

    def evict(self, in_use: Sequence[int]) -> int | None:
        """Remove the least recently used leaf that nobody holds and return its page.

        `in_use[page]` > 0 marks held pages.  None when there is no such leaf.
        """
        while self._heap:
            last_used, key = heapq.heappop(self._heap)
            node = self._nodes.get(key)
            if node is None or node.last_used != last_used or in_use[node.page]:
                continue  # stale: taken up again or evicted since
            if node.num_children:
                continue  # comes back when its last child goes
            self._remove(node)
            return node.page
        return None

    def _remove(self, node: _Node) -> None:
        del self._nodes[node.key]
        del self._by_page[node.page]
        if node.parent is not None:
            node.parent.num_children -= 1
            if node.parent.num_children == 0:
                heapq.heappush(self._heap, (node.parent.last_used, node.parent.key))

    def check(self) -> None:
        children: dict[bytes, int] = {}
        for node in self._nodes.values():
            assert self._by_page[node.page] is node
            if node.parent is not None:
                assert self._nodes[node.parent.key] is node.parent, "a parent left before its child"
                children[node.parent.key] = children.get(node.parent.key, 0) + 1
        for node in self._nodes.values():
            assert node.num_children == children.get(node.key, 0)
        assert len(self._by_page) == len(self._nodes)
