"""The page pool: page numbers and how many sequences hold each.  Integers only, no bytes.

A page is in exactly one state: *free*, *used* (held by at least one sequence) or *cached* (held by
none, but kept by the prefix tree so that a later prompt can take it up again).
"""

from __future__ import annotations


class PagePool:
    """Reference counts of `num_pages` pages; `cached` marks those that the prefix tree keeps."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._holders = [0] * num_pages
        self._kept = [False] * num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._num_cached = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return self._num_cached

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free) - self._num_cached

    def holders(self, page: int) -> int:
        """How many sequences hold this page."""
        return self._holders[page]

    @property
    def holder_counts(self) -> list[int]:
        """Holders by page; the pool's own list, to be read and not changed."""
        return self._holders

    def is_kept(self, page: int) -> bool:
        """Whether the prefix tree keeps this page."""
        return self._kept[page]

    def take(self) -> int:
        """A free page, held once from now on.  Only call while `num_free` > 0."""
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One more sequence holds this used or cached page."""
        if self._holders[page] == 0:
            assert self._kept[page], "only a cached page can be taken up again"
            self._num_cached -= 1
        self._holders[page] += 1

    def release(self, page: int) -> bool:
        """One sequence lets go.  True when nobody holds the page any more."""
        assert self._holders[page] > 0, "released more often than held"
        self._holders[page] -= 1
        if self._holders[page] > 0:
            return False
        if self._kept[page]:
            self._num_cached += 1
        else:
            self._free.append(page)
        return True

    def keep(self, page: int) -> None:
        """The prefix tree keeps this used page: it becomes cached, not free, when let go."""
        assert self._holders[page] > 0
        assert not self._kept[page]
        self._kept[page] = True

    def forget(self, page: int) -> None:
        """The prefix tree gives up this cached page: it is free now."""
        assert self._holders[page] == 0
        assert self._kept[page]
        self._kept[page] = False
        self._num_cached -= 1
        self._free.append(page)

    def check(self, held: list[int]) -> None:
        """Conservation: `held` are all sequences' pages, with repeats."""
        counts = [0] * self.num_pages
        for page in held:
            counts[page] += 1
        assert counts == self._holders, "holders differ from the sequences' page tables"
        free = set(self._free)
        assert len(free) == len(self._free), "a page is free twice"
        for page in range(self.num_pages):
            is_free = self._holders[page] == 0 and not self._kept[page]
            assert is_free == (page in free), f"page {page} is lost or doubly owned"
        cached = sum(k and h == 0 for k, h in zip(self._kept, self._holders, strict=True))
        assert cached == self._num_cached
        assert self.num_free + self.num_cached + self.num_used == self.num_pages
