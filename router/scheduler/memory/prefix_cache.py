"""Which page holds which prefix, and which of those pages nobody uses: least recently used first.

A page is named by a hash of every token up to its end, so equal names mean equal keys and values.
A hash names one page at most: the same content computed twice stays private the second time. What a
named page holds for the target is there; for the draft it may still be missing, and is filled by
the first row that drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile


class Prefixes:
    """Named pages. Those at rest have no owner and may be forgotten when room is needed."""

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}
        self._names: dict[int, int] = {}
        self._complete: set[int] = set()
        """Named pages that hold the draft's part too."""
        self._resting: dict[int, None] = {}

    @property
    def resting(self) -> int:
        """Pages without an owner."""
        return len(self._resting)

    def find(self, hash: int) -> int | None:
        """The page that holds the prefix `hash`."""
        return self._pages.get(hash)

    def match(self, hashes: Sequence[int]) -> list[int]:
        """Pages of the longest run of leading `hashes` that are all held."""
        return [self._pages[hash] for hash in takewhile(self._pages.__contains__, hashes)]

    def name(self, page: int, hash: int) -> None:
        """Publish `page`, unless it has a name or `hash` has a page."""
        if page not in self._names and hash not in self._pages:
            self._pages[hash] = page
            self._names[page] = hash

    def complete(self, page: int) -> None:
        """The draft's part of `page` is there, if the page is named."""
        if page in self._names:
            self._complete.add(page)

    def is_complete(self, page: int) -> bool:
        """Whether `page` is named and holds the draft's part too."""
        return page in self._complete

    def forget(self, page: int) -> None:
        """Withdraw what `page` holds, if it was named."""
        if page in self._names:
            del self._pages[self._names.pop(page)]
            self._complete.discard(page)

    def rest(self, page: int) -> bool:
        """Its last owner left `page`: keep it as the most recently used. False if unnamed."""
        if page not in self._names:
            return False
        self._resting[page] = None
        return True

    def wake(self, page: int) -> None:
        """`page` has an owner."""
        self._resting.pop(page, None)

    def oldest(self) -> int:
        """Forget and return the resting page that was left longest ago."""
        page = next(iter(self._resting))
        del self._resting[page]
        self.forget(page)
        return page
