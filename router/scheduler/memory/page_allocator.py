"""Allocates the pages of the KV cache. Decides placement and sharing; knows no requests or Steps.

Pages 1..n exist (0 is the shards' trash page). A row with adjacent pages is read as one slice on
CPU, so growth takes the next adjacent page. A first allocation states how many pages its owner
expects, and goes to the smallest run that holds as many in addition to what the owner on the left
of the run still expects. Expected pages are preferences, not reservations: they are given away when
nothing else is free.

Pages are reference-counted. An owner publishes the pages that it will not write again, and others
may start with them. A published page without an owner stays cached: it counts as free, and is
evicted, least recently used first, when the runs are too small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from router.scheduler.memory.free_runs import FreeRuns, contiguous_runs
from router.scheduler.memory.prefix_cache import PrefixCache

MAX_COMPARED_RUNS = 128
"""Approximate maximum number of runs that are compared for one placement."""


class OutOfPages(Exception):
    """More pages were requested than are free or reserved; nothing was allocated."""


@dataclass(slots=True)
class _Table:
    """The pages of one owner in token order, and how many it expects and may hold."""

    expected_pages: int
    reserved_pages: int
    pages: list[int] = field(default_factory=list)

    @property
    def last_page(self) -> int:
        return self.pages[-1] if self.pages else -1

    @property
    def unallocated(self) -> int:
        return max(0, self.expected_pages - len(self.pages))


class PageAllocator:
    """Pages 1..`count`: free, cached without an owner, or owned; published ones by several ids."""

    def __init__(self, count: int) -> None:
        """Raises ValueError unless `count` is positive."""
        if count < 1:
            raise ValueError(f"a cache needs at least one page, not {count}")
        self._count = count
        self._free_runs = FreeRuns()
        self._free_runs.free(1, count + 1)
        self._prefixes = PrefixCache()
        self._ref_counts: Counter[int] = Counter()
        self._shared_count = 0
        """Pages with several owners."""
        self._tables: dict[int, _Table] = {}
        self._table_by_last_page: dict[int, _Table] = {}
        """Tables by their last page, to find the owner on the left of a free run."""

    @property
    def free(self) -> int:
        """Pages without an owner."""
        return self._free_runs.page_count + self._prefixes.evictable_count

    @property
    def cached(self) -> int:
        """Pages without an owner that hold a published prefix; they count as free."""
        return self._prefixes.evictable_count

    @property
    def shared(self) -> int:
        """Pages with several owners."""
        return self._shared_count

    @property
    def owner_count(self) -> int:
        """Tables that are open."""
        return len(self._tables)

    def page_count(self, owner: int) -> int:
        """Return the number of pages of `owner`; 0 if it is unknown."""
        table = self._tables.get(owner)
        return 0 if table is None else len(table.pages)

    def table(self, owner: int) -> tuple[int, ...]:
        """Return the page ids of `owner` in token order. Raises KeyError if it is unknown."""
        return tuple(self._tables[owner].pages)

    def match_length(self, hashes: Sequence[int]) -> int:
        """Return how many leading `hashes` have cached pages."""
        return len(self._prefixes.match(hashes))

    def find(self, hash: int) -> int | None:
        """Return the cached page of `hash`, if any; the next `allocate` may evict it."""
        return self._prefixes.find(hash)

    def open_table(
        self,
        owner: int,
        hashes: Sequence[int] = (),
        expected_pages: int = 0,
        reserved_pages: int | None = None,
    ) -> int:
        """Open the table of `owner` with the cached pages of `hashes`. Return their number.

        `expected_pages`: what the owner may come to hold. `reserved_pages`: its maximum, with
        shared pages. Raises ValueError if its table is open.
        """
        if owner in self._tables:
            raise ValueError(f"{owner} owns pages already")
        table = _Table(expected_pages, self._count if reserved_pages is None else reserved_pages)
        table.pages = self._prefixes.match(hashes)[: table.reserved_pages]
        for page in table.pages:
            self._prefixes.acquire(page)
            self._ref_counts[page] += 1
            self._shared_count += self._ref_counts[page] == 2
        self._tables[owner] = table
        return len(table.pages)

    def allocate(self, owner: int, count: int, expected_pages: int = 0) -> tuple[int, ...]:
        """Append `count` pages to the table of `owner`, which is opened here if it is unknown.

        Raises OutOfPages, and ValueError unless `count` is positive.
        """
        table = self._tables.get(owner)
        self._check_allocation(
            count, count if table is None else table.reserved_pages - len(table.pages)
        )
        if table is None:
            self.open_table(owner, expected_pages=expected_pages)
            table = self._tables[owner]
        while self._free_runs.page_count < count:
            page = self._prefixes.evict_lru()
            self._free_runs.free(page, page + 1)
        before = len(table.pages)
        while count:
            count -= self._extend(table, count)
        self._ref_counts.update(table.pages[before:])
        return tuple(table.pages[before:])

    def publish(self, owner: int, hashes: Sequence[int], first: int = 0) -> None:
        """Share the pages of `owner` from index `first` on, under `hashes`.

        The owner will not write to them again, except for missing KV of the draft.
        """
        pages = self._tables[owner].pages[first:]
        for page, hash in zip(pages, hashes, strict=False):
            self._prefixes.publish(page, hash)

    def mark_draft_complete(self, owner: int, first: int, stop: int) -> None:
        """Pages `first` to `stop` - 1 of `owner` hold the draft's KV too."""
        for page in self._tables[owner].pages[first:stop]:
            self._prefixes.mark_draft_complete(page)

    def draft_complete_length(self, pages: Sequence[int]) -> int:
        """Return how many leading `pages` hold the KV of both target and draft."""
        return sum(1 for _ in takewhile(self._prefixes.is_draft_complete, pages))

    def unpublish(self, owner: int) -> None:
        """Stop sharing the pages of `owner`."""
        for page in self._tables[owner].pages:
            self._prefixes.remove(page)

    def shared_length(self, owner: int) -> int:
        """Return how many leading pages of `owner` have other owners too."""
        return sum(1 for _ in takewhile(lambda page: self._ref_counts[page] > 1, self.table(owner)))

    def pages_freed_by(self, owner: int, dropped: Counter[int]) -> int:
        """Return how many pages would become free if `owner` released its pages too.

        `dropped`: released references by page, to which those of `owner` are added.
        """
        pages = self._tables[owner].pages
        dropped.update(pages)
        return sum(self._ref_counts[page] == dropped[page] for page in pages)

    def release(self, owner: int) -> tuple[int, ...]:
        """Release all pages of `owner` and return them. Raises KeyError if it is unknown.

        Later pages are evicted first: a prefix is worth more than what follows it.
        """
        table = self._tables.pop(owner)
        self._drop_expectation(table)
        self._ref_counts.subtract(table.pages)
        self._shared_count -= sum(self._ref_counts[page] == 1 for page in table.pages)
        left = [page for page in table.pages if not self._ref_counts[page]]
        for page in left:
            del self._ref_counts[page]
        cached = {page for page in reversed(left) if self._prefixes.release(page)}
        for start, stop in contiguous_runs(page for page in left if page not in cached):
            self._free_runs.free(start, stop)
        return tuple(table.pages)

    def _check_allocation(self, count: int, reserved: int) -> None:
        if count < 1:
            raise ValueError(f"cannot allocate {count} pages")
        if count > reserved:
            raise OutOfPages(f"{count} pages requested, {reserved} reserved")
        if count > self.free:
            raise OutOfPages(f"{count} pages requested, {self.free} free")

    def _extend(self, table: _Table, count: int) -> int:
        start, room = self._next_free(table, count)
        count = min(count, room)
        self._free_runs.allocate(start, start + count)
        self._drop_expectation(table)
        table.pages.extend(range(start, start + count))
        self._table_by_last_page[table.last_page] = table
        return count

    def _drop_expectation(self, table: _Table) -> None:
        if self._table_by_last_page.get(table.last_page) is table:
            del self._table_by_last_page[table.last_page]

    def _next_free(self, table: _Table, count: int) -> tuple[int, int]:
        """Return the first page for the growth of `table`, and how many are free from there."""
        adjacent = table.last_page + 1
        stop = self._free_runs.get_stop(adjacent)
        if stop is not None:
            return adjacent, stop - adjacent
        return self._best_run(max(count, table.unallocated), table.last_page)

    def _best_run(self, wanted: int, near: int) -> tuple[int, int]:
        """Return the smallest run with `wanted` pages that no owner expects, or else the largest.

        Ties go to the run nearest to page `near`. Of very many runs a sample is compared.
        """

        def score(start: int) -> tuple[bool, int, int]:
            first, stop = self._outside_expectation(start)
            room = stop - first
            return room < wanted, room if room >= wanted else -room, abs(first - near)

        starts = self._free_runs.starts
        first, stop = self._outside_expectation(
            min(starts[:: 1 + len(starts) // MAX_COMPARED_RUNS], key=score)
        )
        # Only expected pages are left: take the last of the run, farthest from its expected owner.
        return (first, stop - first) if first < stop else (stop - 1, 1)

    def _outside_expectation(self, start: int) -> tuple[int, int]:
        """Return the part of the run at `start` that the owner on its left does not expect.

        A pair of first page and end of the run; the first page may lie beyond the end.
        """
        left, stop = self._table_by_last_page.get(start - 1), self._free_runs.stop_of(start)
        return start if left is None else start + left.unallocated, stop
