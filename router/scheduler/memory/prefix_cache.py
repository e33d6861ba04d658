"""Which page holds which prefix, and which of those pages have no owner, in LRU order.

A page is published under a hash of every token up to its end, so equal hashes mean equal keys and
values. A hash has at most one page: the same content computed twice stays private the second time.
A published page holds the target's KV; the draft's may be missing, and is filled by the first row
that drafts. Decides what is evicted, not when.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile


class PrefixCache:
    """Published pages. Those without an owner may be evicted."""

    def __init__(self) -> None:
        self._page_by_hash: dict[int, int] = {}
        self._hash_by_page: dict[int, int] = {}
        self._draft_complete: set[int] = set()
        """Published pages that hold the draft's KV too."""
        self._evictable: dict[int, None] = {}

    @property
    def evictable_count(self) -> int:
        """Pages without an owner."""
        return len(self._evictable)

    def find(self, hash: int) -> int | None:
        """Return the page of the prefix `hash`, if any."""
        return self._page_by_hash.get(hash)

    def match(self, hashes: Sequence[int]) -> list[int]:
        """Return the pages of as many leading `hashes` as are all cached."""
        return [
            self._page_by_hash[hash] for hash in takewhile(self._page_by_hash.__contains__, hashes)
        ]

    def publish(self, page: int, hash: int) -> None:
        """Publish `page`, unless it is published or `hash` has a page."""
        if page not in self._hash_by_page and hash not in self._page_by_hash:
            self._page_by_hash[hash] = page
            self._hash_by_page[page] = hash

    def mark_draft_complete(self, page: int) -> None:
        """Record that `page` holds the draft's KV too, if it is published."""
        if page in self._hash_by_page:
            self._draft_complete.add(page)

    def is_draft_complete(self, page: int) -> bool:
        """Return whether `page` is published and holds the draft's KV too."""
        return page in self._draft_complete

    def remove(self, page: int) -> None:
        """Unpublish `page`, if it is published."""
        if page in self._hash_by_page:
            del self._page_by_hash[self._hash_by_page.pop(page)]
            self._draft_complete.discard(page)

    def release(self, page: int) -> bool:
        """Keep a page without an owner as the most recently used. Return False if unpublished."""
        if page not in self._hash_by_page:
            return False
        self._evictable[page] = None
        return True

    def acquire(self, page: int) -> None:
        """Record that `page` has an owner."""
        self._evictable.pop(page, None)

    def evict_lru(self) -> int:
        """Unpublish and return the page that has had no owner for longest."""
        page = next(iter(self._evictable))
        del self._evictable[page]
        self.remove(page)
        return page
