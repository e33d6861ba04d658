"""Who owns which page of the KV cache. Decides placement; knows nothing of requests or Steps.

Pages 1..n exist (0 is the shards' trash page). Free pages are kept as maximal runs, because a row
whose pages are neighbours is read as one slice on CPU. Growth therefore takes the next adjacent
page; a first allocation says how large its owner may become and lands in the tightest run that
holds as much beside what the run's left neighbour still hopes for. Those hopes are preferences,
not reservations: they give way when nothing else is free.

Every change of ownership passes `_carve` or `_mend`, which is where counts of references to
shared pages, and an index of pages by the hash of their prefix, would be kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field


class OutOfPages(Exception):
    """More pages were asked for than are free; nothing was allocated."""


@dataclass(slots=True)
class _Table:
    """The pages of one owner in the order of its tokens, and the number it hopes to hold."""

    hope: int
    pages: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.pages[-1] if self.pages else -1

    @property
    def unmet(self) -> int:
        return max(0, self.hope - len(self.pages))


class Pages:
    """Pages 1..`count`, free or owned by exactly one id."""

    def __init__(self, count: int) -> None:
        """Raises ValueError unless `count` is positive."""
        if count < 1:
            raise ValueError(f"a cache of {count} pages holds nothing")
        self.free = count
        self._starts = [1]
        self._stop = {1: count + 1}
        self._start = {count + 1: 1}
        self._tables: dict[int, _Table] = {}
        self._left: dict[int, _Table] = {}
        """Tables by their last page: the left neighbours of free runs."""

    def held(self, owner: int) -> int:
        """Number of pages that `owner` holds; 0 for a stranger."""
        table = self._tables.get(owner)
        return 0 if table is None else len(table.pages)

    def table(self, owner: int) -> tuple[int, ...]:
        """Page ids of `owner` in the order of its tokens. Raises KeyError for a stranger."""
        return tuple(self._tables[owner].pages)

    def take(self, owner: int, count: int, hope: int = 0) -> tuple[int, ...]:
        """Append `count` pages to the table of `owner`, which starts with the first call.

        `hope`: pages that the owner may hold one day; read at its first allocation. Raises
        OutOfPages, and ValueError unless `count` is positive.
        """
        if count < 1:
            raise ValueError(f"cannot take {count} pages")
        if count > self.free:
            raise OutOfPages(f"{count} pages wanted, {self.free} free")
        table = self._tables.get(owner)
        if table is None:
            table = self._tables[owner] = _Table(hope)
        before = len(table.pages)
        while count:
            count -= self._extend(table, count)
        return tuple(table.pages[before:])

    def give_back(self, owner: int) -> tuple[int, ...]:
        """Free every page of `owner` and forget it. Raises KeyError for a stranger."""
        table = self._tables.pop(owner)
        self._left.pop(table.last, None)
        for start, stop in _runs(table.pages):
            self._mend(start, stop)
        return tuple(table.pages)

    def _extend(self, table: _Table, count: int) -> int:
        start, room = self._place(table, count)
        count = min(count, room)
        self._carve(start, start + count)
        self._left.pop(table.last, None)
        table.pages.extend(range(start, start + count))
        self._left[table.last] = table
        return count

    def _place(self, table: _Table, count: int) -> tuple[int, int]:
        """Where the next pages of `table` go: the first page, and how many are free from it."""
        adjacent = table.last + 1
        stop = self._stop.get(adjacent)
        if stop is not None:
            return adjacent, stop - adjacent
        return self._choose(max(count, table.unmet), table.last)

    def _choose(self, want: int, near: int) -> tuple[int, int]:
        """The tightest run that holds `want` beyond its left neighbour's hope, or the roomiest.

        Ties go to the run nearest to page `near`.
        """
        tight: tuple[int, int, int, int] | None = None
        loose: tuple[int, int, int, int] | None = None
        for start in self._starts:
            stop = self._stop[start]
            neighbour = self._left.get(start - 1)
            first = start if neighbour is None else start + neighbour.unmet
            room, distance = stop - first, abs(first - near)
            if room >= want:
                tight = min(tight or (room, distance, first, stop), (room, distance, first, stop))
            loose = min(loose or (-room, distance, first, stop), (-room, distance, first, stop))
        _, _, first, stop = tight or loose or (0, 0, 0, 0)
        # Nothing but hopes left: take the last page of the run, farthest from who hopes for it.
        return (first, stop - first) if first < stop else (stop - 1, 1)

    def _carve(self, start: int, stop: int) -> None:
        """Take the free pages `start`..`stop` - 1, all of one run, out of it."""
        run = self._starts[bisect_left(self._starts, start + 1) - 1]
        end = self._stop[run]
        self._drop(run)
        if run < start:
            self._add(run, start)
        if stop < end:
            self._add(stop, end)
        self.free -= stop - start

    def _mend(self, start: int, stop: int) -> None:
        """Make the pages `start`..`stop` - 1 free and merge them with their free neighbours."""
        self.free += stop - start
        before = self._start.get(start)
        if before is not None:
            self._drop(before)
            start = before
        after = self._stop.get(stop)
        if after is not None:
            self._drop(stop)
            stop = after
        self._add(start, stop)

    def _add(self, start: int, stop: int) -> None:
        insort(self._starts, start)
        self._stop[start] = stop
        self._start[stop] = start

    def _drop(self, start: int) -> None:
        del self._starts[bisect_left(self._starts, start)]
        del self._start[self._stop.pop(start)]


def _runs(pages: Sequence[int]) -> list[tuple[int, int]]:
    """Maximal runs [start, stop) of neighbouring pages, in the order of `pages`."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and runs[-1][1] == page:
            runs[-1] = (runs[-1][0], page + 1)
        else:
            runs.append((page, page + 1))
    return runs
