"""KV memory by page numbers: page tables that grow, share, fork and go, over one pool and one tree.

The scheduler talks to this; the bytes are elsewhere (`memory.kv_store`).  A page is written only
while one sequence holds it (copy-on-write) and never after it is full.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tribody.memory.pages import PagePool
from tribody.memory.prefix import PrefixTree, page_key, root_key


@dataclass(slots=True)
class PageTable:
    """One sequence's pages, in order of position.

    `num_committed` full pages at the front have keys; `last_key` is the key of the last of them
    (or the root).  `detached`: a page of ours differs in form from the tree's page for the same
    tokens, so what follows depends on it and stays private.
    """

    pages: list[int] = field(default_factory=list)
    num_committed: int = 0
    last_key: bytes = b""
    detached: bool = False


class KVMemory:
    """Who holds which page.  Mutates only the tables that are passed in."""

    def __init__(self, num_pages: int, page_size: int, fingerprint: bytes) -> None:
        self.page_size = page_size
        self.pool = PagePool(num_pages)
        self.tree = PrefixTree()
        self._fingerprint = fingerprint
        self._tables: dict[int, PageTable] = {}  # by identity, for check()

    def open(self, token_ids: list[int], salt: str) -> PageTable:
        """A new table that holds the longest cached prefix of `token_ids`.

        At least one token is left to compute, since its logits are wanted.
        """
        table = PageTable(last_key=root_key(self._fingerprint, salt))
        size = self.page_size
        for index in range((len(token_ids) - 1) // size):
            key = page_key(table.last_key, token_ids[index * size : (index + 1) * size])
            found = self.tree.find(key)
            if found is None:
                break
            self.pool.hold(found[0])
            table.pages.append(found[0])
            table.last_key = key
            table.num_committed += 1
        self._tables[id(table)] = table
        return table

    def num_available(self) -> int:
        """Pages that could be had now: free ones and cached ones (which would be evicted)."""
        return self.pool.num_free + self.pool.num_cached

    def num_missing(self, table: PageTable, num_tokens: int) -> int:
        """Pages that `grow` to `num_tokens` positions would take, a copy not counted."""
        return max(0, -(-num_tokens // self.page_size) - len(table.pages))

    def grow(
        self, table: PageTable, num_computed: int, num_tokens: int
    ) -> list[tuple[int, int]] | None:
        """Make room to write positions [num_computed, num_tokens).

        Returns the page copies (source, target) to do first: the page that is written next, if
        others hold it too.  None, and nothing changed, when there are not enough pages.
        """
        first, offset = divmod(num_computed, self.page_size)
        shared = offset != 0 and self.pool.holders(table.pages[first]) > 1
        missing = self.num_missing(table, num_tokens)
        copies: list[tuple[int, int]] = []
        if not (missing or shared):  # nearly always: a token finds room in its sequence's last page
            return copies
        if missing + shared > self.num_available():
            return None
        if shared:
            source, target = table.pages[first], self._take()
            table.pages[first] = target
            self._release(source)
            copies.append((source, target))
        table.pages.extend(self._take() for _ in range(missing))
        return copies

    def trim(self, table: PageTable, num_tokens: int) -> None:
        """Let go of the pages behind position `num_tokens`, which hold nothing any more."""
        while len(table.pages) * self.page_size >= num_tokens + self.page_size:
            self._release(table.pages.pop())

    def has_new_pages(self, table: PageTable, num_computed: int) -> bool:
        """Whether `commit` would have anything to do."""
        return not table.detached and (table.num_committed + 1) * self.page_size <= num_computed

    def commit(
        self, table: PageTable, token_ids: list[int], num_computed: int, num_prompt: int
    ) -> None:
        """Offer the pages that became full to the prefix tree.

        A page's form is how many of its tokens were computed as prompt.  When the tree already
        has the same tokens in the same form, the contents are bit-identical (operators are
        batch-invariant): the table takes the tree's page and frees its own.
        """
        size = self.page_size
        while self.has_new_pages(table, num_computed):
            index = table.num_committed
            form = max(0, min(size, num_prompt - index * size))
            key = page_key(table.last_key, token_ids[index * size : (index + 1) * size])
            found = self.tree.find(key)
            page = table.pages[index]
            if found is None:
                self.pool.keep(page)
                self.tree.insert(table.last_key, key, page, form)
            elif found[0] != page:
                if found[1] != form:
                    table.detached = True
                    return
                self.pool.hold(found[0])
                table.pages[index] = found[0]
                self._release(page)
            table.last_key = key
            table.num_committed += 1

    def fork(self, table: PageTable, num_computed: int) -> PageTable:
        """A second table over the pages of positions [0, num_computed)."""
        shared = table.pages[: -(-num_computed // self.page_size)]
        for page in shared:
            self.pool.hold(page)
        twin = PageTable(shared, table.num_committed, table.last_key, table.detached)
        self._tables[id(twin)] = twin
        return twin

    def close(self, table: PageTable) -> None:
        """Let go of all pages, the last first, so that the tree evicts tails before heads."""
        for page in reversed(table.pages):
            self._release(page)
        table.pages.clear()
        del self._tables[id(table)]

    def check(self) -> None:
        """Free + cached + used = total, and every holder is a live table."""
        self.pool.check([page for table in self._tables.values() for page in table.pages])
        self.tree.check()

    def _take(self) -> int:
        if self.pool.num_free == 0:
            page = self.tree.evict(self.pool.holder_counts)
            assert page is not None, "cached pages but no leaf to evict"
            self.pool.forget(page)
        return self.pool.take()

    def _release(self, page: int) -> None:
        if self.pool.release(page) and self.pool.is_kept(page):
            self.tree.let_go(page)
