"""Free pages as maximal runs of neighbours. An interval set; knows neither owners nor content."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable


class Runs:
    """Disjoint runs [start, stop) of pages, none of them touching another."""

    def __init__(self) -> None:
        self.free = 0
        """Pages in all runs."""
        self.starts: list[int] = []
        """First page of each run, rising."""
        self._stop: dict[int, int] = {}
        self._start: dict[int, int] = {}

    def stop(self, start: int) -> int | None:
        """The end of the run that begins at `start`; None where none does."""
        return self._stop.get(start)

    def end(self, start: int) -> int:
        """The end of the run that begins at `start`. Raises KeyError where none does."""
        return self._stop[start]

    def carve(self, start: int, stop: int) -> None:
        """Take the free pages `start`..`stop` - 1, all of one run, out of it."""
        run = self.starts[bisect_left(self.starts, start + 1) - 1]
        end = self._stop[run]
        self._drop(run)
        if run < start:
            self._add(run, start)
        if stop < end:
            self._add(stop, end)
        self.free -= stop - start

    def mend(self, start: int, stop: int) -> None:
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
        insort(self.starts, start)
        self._stop[start] = stop
        self._start[stop] = start

    def _drop(self, start: int) -> None:
        del self.starts[bisect_left(self.starts, start)]
        del self._start[self._stop.pop(start)]


def runs(pages: Iterable[int]) -> list[tuple[int, int]]:
    """Maximal runs [start, stop) of neighbouring pages, in the order of `pages`."""
    found: list[tuple[int, int]] = []
    for page in pages:
        if found and found[-1][1] == page:
            found[-1] = (found[-1][0], page + 1)
        else:
            found.append((page, page + 1))
    return found
