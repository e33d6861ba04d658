"""Which page holds which prefix, and which of those pages nobody uses: least recently used first.

A page is named by a hash of every token up to its end, so equal names mean equal keys and values.
A hash names one page at most: the same content computed twice stays private the second time. What a
named page holds for the target is there; for the draft it may still be missing, and is filled by
the first row that drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile


class PrefixCache:
    """Named pages. Those at rest have no owner and may be forgotten when room is needed."""

    def __init__(self) -> None:
        self._page_by_hash: dict[int, int] = {}
        self._hash_by_page: dict[int, int] = {}
        self._draft_complete: set[int] = set()
        """Named pages that hold the draft's part too."""
        self._evictable: dict[int, None] = {}

    @property
    def evictable_count(self) -> int:
        """Pages without an owner."""
        return len(self._evictable)

    def find(self, hash: int) -> int | None:
        """The page that holds the prefix `hash`."""
        return self._page_by_hash.get(hash)

    def match(self, hashes: Sequence[int]) -> list[int]:
        """Pages of the longest run of leading `hashes` that are all held."""
        return [
            self._page_by_hash[hash] for hash in takewhile(self._page_by_hash.__contains__, hashes)
        ]

    def publish(self, page: int, hash: int) -> None:
        """Publish `page`, unless it has a name or `hash` has a page."""
        if page not in self._hash_by_page and hash not in self._page_by_hash:
            self._page_by_hash[hash] = page
            self._hash_by_page[page] = hash

    def mark_draft_complete(self, page: int) -> None:
        """The draft's part of `page` is there, if the page is named."""
        if page in self._hash_by_page:
            self._draft_complete.add(page)

    def is_draft_complete(self, page: int) -> bool:
        """Whether `page` is named and holds the draft's part too."""
        return page in self._draft_complete

    def remove(self, page: int) -> None:
        """Withdraw what `page` holds, if it was named."""
        if page in self._hash_by_page:
            del self._page_by_hash[self._hash_by_page.pop(page)]
            self._draft_complete.discard(page)

    def release(self, page: int) -> bool:
        """Its last owner left `page`: keep it as the most recently used. False if unnamed."""
        if page not in self._hash_by_page:
            return False
        self._evictable[page] = None
        return True

    def acquire(self, page: int) -> None:
        """`page` has an owner."""
        self._evictable.pop(page, None)

    def evict_lru(self) -> int:
        """Forget and return the resting page that was left longest ago."""
        page = next(iter(self._evictable))
        del self._evictable[page]
        self.remove(page)
        return page
