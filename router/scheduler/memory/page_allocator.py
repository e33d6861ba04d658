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

from router.scheduler.memory.free_runs import Runs, runs
from router.scheduler.memory.prefix_cache import Prefixes

COMPARED = 128
"""Most runs, about, that are compared for one placement."""


class OutOfPages(Exception):
    """More pages were asked for than are free or were reserved; nothing was allocated."""


@dataclass(slots=True)
class _Table:
    """The pages of one owner in token order, and the numbers it hopes for and may hold."""

    hope: int
    most: int
    pages: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.pages[-1] if self.pages else -1

    @property
    def unmet(self) -> int:
        return max(0, self.hope - len(self.pages))


class Pages:
    """Pages 1..`count`: free, resting, or owned by one id or, once published, by several."""

    def __init__(self, count: int) -> None:
        """Raises ValueError unless `count` is positive."""
        if count < 1:
            raise ValueError(f"a cache of {count} pages holds nothing")
        self._count = count
        self._runs = Runs()
        self._runs.mend(1, count + 1)
        self._prefixes = Prefixes()
        self._owners: Counter[int] = Counter()
        self._tables: dict[int, _Table] = {}
        self._left: dict[int, _Table] = {}
        """Tables by their last page: the left neighbours of free runs."""

    @property
    def free(self) -> int:
        """Pages without an owner."""
        return self._runs.free + self._prefixes.resting

    @property
    def owners(self) -> int:
        """Tables that are open."""
        return len(self._tables)

    def held(self, owner: int) -> int:
        """Number of pages that `owner` holds; 0 for a stranger."""
        table = self._tables.get(owner)
        return 0 if table is None else len(table.pages)

    def table(self, owner: int) -> tuple[int, ...]:
        """Page ids of `owner` in the order of its tokens. Raises KeyError for a stranger."""
        return tuple(self._tables[owner].pages)

    def match(self, hashes: Sequence[int]) -> int:
        """How many leading `hashes` name pages that could be shared."""
        return len(self._prefixes.match(hashes))

    def find(self, hash: int) -> int | None:
        """The page that `hash` names; it may be given away by the next `take`."""
        return self._prefixes.find(hash)

    def open(
        self, owner: int, hashes: Sequence[int] = (), hope: int = 0, most: int | None = None
    ) -> int:
        """Start the table of `owner` with the pages that `hashes` name; their number.

        `hope`: pages that the owner may hold one day. `most`: what it has reserved, shared pages
        included. Raises ValueError if it is no stranger.
        """
        if owner in self._tables:
            raise ValueError(f"{owner} owns pages already")
        table = _Table(hope, self._count if most is None else most)
        table.pages = self._prefixes.match(hashes)[: table.most]
        for page in table.pages:
            self._prefixes.wake(page)
            self._owners[page] += 1
        self._tables[owner] = table
        return len(table.pages)

    def take(self, owner: int, count: int, hope: int = 0) -> tuple[int, ...]:
        """Append `count` pages to the table of `owner`; a stranger's starts here, with `hope`.

        Raises OutOfPages, and ValueError unless `count` is positive.
        """
        table = self._tables.get(owner)
        self._check(count, count if table is None else table.most - len(table.pages))
        if table is None:
            self.open(owner, hope=hope)
            table = self._tables[owner]
        while self._runs.free < count:
            page = self._prefixes.oldest()
            self._runs.mend(page, page + 1)
        before = len(table.pages)
        while count:
            count -= self._extend(table, count)
        self._owners.update(table.pages[before:])
        return tuple(table.pages[before:])

    def publish(self, owner: int, hashes: Sequence[int], first: int = 0) -> None:
        """Name the pages of `owner` from the one at `first` on.

        It never writes to them again, but for the draft's part of those that are not complete.
        """
        pages = self._tables[owner].pages[first:]
        for page, hash in zip(pages, hashes, strict=False):
            self._prefixes.name(page, hash)

    def complete(self, owner: int, first: int, stop: int) -> None:
        """The draft's part of the pages `first` to `stop` of `owner` is there."""
        for page in self._tables[owner].pages[first:stop]:
            self._prefixes.complete(page)

    def completed(self, pages: Sequence[int]) -> int:
        """How many leading `pages` hold what target and draft need."""
        return sum(1 for _ in takewhile(self._prefixes.is_complete, pages))

    def retract(self, owner: int) -> None:
        """What the pages of `owner` hold is not to be shared from now on."""
        for page in self._tables[owner].pages:
            self._prefixes.forget(page)

    def shared(self, owner: int) -> int:
        """How many leading pages of `owner` have other owners too."""
        return sum(1 for _ in takewhile(lambda page: self._owners[page] > 1, self.table(owner)))

    def gain(self, owner: int, dropped: Counter[int]) -> int:
        """How many pages `owner` would free beside those that left `dropped`; adds its own."""
        pages = self._tables[owner].pages
        dropped.update(pages)
        return sum(self._owners[page] == dropped[page] for page in pages)

    def give_back(self, owner: int) -> tuple[int, ...]:
        """Take `owner` off all its pages and forget it. Raises KeyError for a stranger.

        The later pages rest first: a prefix is worth more than what follows it.
        """
        table = self._tables.pop(owner)
        self._unhope(table)
        self._owners.subtract(table.pages)
        left = [page for page in table.pages if not self._owners[page]]
        for page in left:
            del self._owners[page]
        rested = {page for page in reversed(left) if self._prefixes.rest(page)}
        for start, stop in runs(page for page in left if page not in rested):
            self._runs.mend(start, stop)
        return tuple(table.pages)

    def _check(self, count: int, reserved: int) -> None:
        if count < 1:
            raise ValueError(f"cannot take {count} pages")
        if count > reserved:
            raise OutOfPages(f"{count} pages wanted, {reserved} reserved")
        if count > self.free:
            raise OutOfPages(f"{count} pages wanted, {self.free} free")

    def _extend(self, table: _Table, count: int) -> int:
        start, room = self._place(table, count)
        count = min(count, room)
        self._runs.carve(start, start + count)
        self._unhope(table)
        table.pages.extend(range(start, start + count))
        self._left[table.last] = table
        return count

    def _unhope(self, table: _Table) -> None:
        if self._left.get(table.last) is table:
            del self._left[table.last]

    def _place(self, table: _Table, count: int) -> tuple[int, int]:
        """Where the next pages of `table` go: the first page, and how many are free from it."""
        adjacent = table.last + 1
        stop = self._runs.stop(adjacent)
        if stop is not None:
            return adjacent, stop - adjacent
        return self._choose(max(count, table.unmet), table.last)

    def _choose(self, want: int, near: int) -> tuple[int, int]:
        """The tightest run that holds `want` beyond its left neighbour's hope, or the roomiest.

        Ties go to the run nearest to page `near`. Of very many runs a sample is compared.
        """

        def score(start: int) -> tuple[bool, int, int]:
            first, stop = self._beyond(start)
            room = stop - first
            return room < want, room if room >= want else -room, abs(first - near)

        starts = self._runs.starts
        first, stop = self._beyond(min(starts[:: 1 + len(starts) // COMPARED], key=score))
        # Nothing but hopes left: take the last page of the run, farthest from who hopes for it.
        return (first, stop - first) if first < stop else (stop - 1, 1)

    def _beyond(self, start: int) -> tuple[int, int]:
        """The free run at `start` from the first page that its left neighbour does not hope for.

        Its second number is the end of the run; the first may lie beyond it.
        """
        left, stop = self._left.get(start - 1), self._runs.end(start)
        return start if left is None else start + left.unmet, stop
