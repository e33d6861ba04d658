"""Who owns which page of the KV cache. Decides placement and sharing; knows no requests or Steps.

Pages 1..n exist (0 is the shards' trash page). A row whose pages are neighbours is read as one
slice on CPU, so growth takes the next adjacent page, and a first allocation says how large its
owner may become and lands in the tightest run that holds as much beside what the run's left
neighbour still hopes for. Those hopes are preferences, not reservations: they give way when
nothing else is free.

Pages are counted by their owners. An owner publishes the pages that it will never write again,
and others may start with them. A published page that loses its last owner rests: it counts as
free, and is forgotten, least recently used first, when the runs have too little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from router.scheduler.memory.free_runs import FreeRuns, contiguous_runs
from router.scheduler.memory.prefix_cache import PrefixCache

MAX_COMPARED_RUNS = 128
"""Most runs, about, that are compared for one placement."""


class OutOfPages(Exception):
    """More pages were asked for than are free or were reserved; nothing was allocated."""


@dataclass(slots=True)
class _Table:
    """The pages of one owner in token order, and the numbers it hopes for and may hold."""

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
    """Pages 1..`count`: free, resting, or owned by one id or, once published, by several."""

    def __init__(self, count: int) -> None:
        """Raises ValueError unless `count` is positive."""
        if count < 1:
            raise ValueError(f"a cache of {count} pages holds nothing")
        self._count = count
        self._free_runs = FreeRuns()
        self._free_runs.free(1, count + 1)
        self._prefixes = PrefixCache()
        self._ref_counts: Counter[int] = Counter()
        self._tables: dict[int, _Table] = {}
        self._table_by_last_page: dict[int, _Table] = {}
        """Tables by their last page: the left neighbours of free runs."""

    @property
    def free(self) -> int:
        """Pages without an owner."""
        return self._free_runs.page_count + self._prefixes.evictable_count

    @property
    def owner_count(self) -> int:
        """Tables that are open."""
        return len(self._tables)

    def page_count(self, owner: int) -> int:
        """Number of pages that `owner` holds; 0 for a stranger."""
        table = self._tables.get(owner)
        return 0 if table is None else len(table.pages)

    def table(self, owner: int) -> tuple[int, ...]:
        """Page ids of `owner` in the order of its tokens. Raises KeyError for a stranger."""
        return tuple(self._tables[owner].pages)

    def match_length(self, hashes: Sequence[int]) -> int:
        """How many leading `hashes` name pages that could be shared."""
        return len(self._prefixes.match(hashes))

    def find(self, hash: int) -> int | None:
        """The page that `hash` names; it may be given away by the next `take`."""
        return self._prefixes.find(hash)

    def open_table(
        self,
        owner: int,
        hashes: Sequence[int] = (),
        expected_pages: int = 0,
        reserved_pages: int | None = None,
    ) -> int:
        """Start the table of `owner` with the pages that `hashes` name; their number.

        `hope`: pages that the owner may hold one day. `most`: what it has reserved, shared pages
        included. Raises ValueError if it is no stranger.
        """
        if owner in self._tables:
            raise ValueError(f"{owner} owns pages already")
        table = _Table(expected_pages, self._count if reserved_pages is None else reserved_pages)
        table.pages = self._prefixes.match(hashes)[: table.reserved_pages]
        for page in table.pages:
            self._prefixes.acquire(page)
            self._ref_counts[page] += 1
        self._tables[owner] = table
        return len(table.pages)

    def allocate(self, owner: int, count: int, expected_pages: int = 0) -> tuple[int, ...]:
        """Append `count` pages to the table of `owner`; a stranger's starts here, with `hope`.

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
        """Name the pages of `owner` from the one at `first` on.

        It never writes to them again, but for the draft's part of those that are not complete.
        """
        pages = self._tables[owner].pages[first:]
        for page, hash in zip(pages, hashes, strict=False):
            self._prefixes.publish(page, hash)

    def mark_draft_complete(self, owner: int, first: int, stop: int) -> None:
        """The draft's part of the pages `first` to `stop` of `owner` is there."""
        for page in self._tables[owner].pages[first:stop]:
            self._prefixes.mark_draft_complete(page)

    def draft_complete_length(self, pages: Sequence[int]) -> int:
        """How many leading `pages` hold what target and draft need."""
        return sum(1 for _ in takewhile(self._prefixes.is_draft_complete, pages))

    def unpublish(self, owner: int) -> None:
        """What the pages of `owner` hold is not to be shared from now on."""
        for page in self._tables[owner].pages:
            self._prefixes.remove(page)

    def shared_length(self, owner: int) -> int:
        """How many leading pages of `owner` have other owners too."""
        return sum(1 for _ in takewhile(lambda page: self._ref_counts[page] > 1, self.table(owner)))

    def pages_freed_by(self, owner: int, dropped: Counter[int]) -> int:
        """How many pages `owner` would free beside those that left `dropped`; adds its own."""
        pages = self._tables[owner].pages
        dropped.update(pages)
        return sum(self._ref_counts[page] == dropped[page] for page in pages)

    def release(self, owner: int) -> tuple[int, ...]:
        """Take `owner` off all its pages and forget it. Raises KeyError for a stranger.

        The later pages rest first: a prefix is worth more than what follows it.
        """
        table = self._tables.pop(owner)
        self._drop_expectation(table)
        self._ref_counts.subtract(table.pages)
        left = [page for page in table.pages if not self._ref_counts[page]]
        for page in left:
            del self._ref_counts[page]
        rested = {page for page in reversed(left) if self._prefixes.release(page)}
        for start, stop in contiguous_runs(page for page in left if page not in rested):
            self._free_runs.free(start, stop)
        return tuple(table.pages)

    def _check_allocation(self, count: int, reserved: int) -> None:
        if count < 1:
            raise ValueError(f"cannot take {count} pages")
        if count > reserved:
            raise OutOfPages(f"{count} pages wanted, {reserved} reserved")
        if count > self.free:
            raise OutOfPages(f"{count} pages wanted, {self.free} free")

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
        """Where the next pages of `table` go: the first page, and how many are free from it."""
        adjacent = table.last_page + 1
        stop = self._free_runs.get_stop(adjacent)
        if stop is not None:
            return adjacent, stop - adjacent
        return self._best_run(max(count, table.unallocated), table.last_page)

    def _best_run(self, wanted: int, near: int) -> tuple[int, int]:
        """The tightest run that holds `want` beyond its left neighbour's hope, or the roomiest.

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
        # Nothing but hopes left: take the last page of the run, farthest from who hopes for it.
        return (first, stop - first) if first < stop else (stop - 1, 1)

    def _outside_expectation(self, start: int) -> tuple[int, int]:
        """The free run at `start` from the first page that its left neighbour does not hope for.

        Its second number is the end of the run; the first may lie beyond it.
        """
        left, stop = self._table_by_last_page.get(start - 1), self._free_runs.stop_of(start)
        return start if left is None else start + left.unallocated, stop
