"""Free pages as maximal runs of adjacent pages: an interval set. Knows no owners and no content."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable


class FreeRuns:
    """Disjoint runs [start, stop) of pages, none of them touching another."""

    def __init__(self) -> None:
        self.page_count = 0
        """Pages in all runs."""
        self.starts: list[int] = []
        """First page of each run, rising."""
        self._stop_by_start: dict[int, int] = {}
        self._start_by_stop: dict[int, int] = {}

    def get_stop(self, start: int) -> int | None:
        """Return the end of the run that begins at `start`; None if there is none."""
        return self._stop_by_start.get(start)

    def stop_of(self, start: int) -> int:
        """Return the end of the run that begins at `start`. Raises KeyError if there is none."""
        return self._stop_by_start[start]

    def allocate(self, start: int, stop: int) -> None:
        """Remove the free pages `start`..`stop` - 1, all of one run, from the set."""
        run = self.starts[bisect_left(self.starts, start + 1) - 1]
        end = self._stop_by_start[run]
        self._remove(run)
        if run < start:
            self._add(run, start)
        if stop < end:
            self._add(stop, end)
        self.page_count -= stop - start

    def free(self, start: int, stop: int) -> None:
        """Add the pages `start`..`stop` - 1 and merge them with adjacent runs."""
        self.page_count += stop - start
        before = self._start_by_stop.get(start)
        if before is not None:
            self._remove(before)
            start = before
        after = self._stop_by_start.get(stop)
        if after is not None:
            self._remove(stop)
            stop = after
        self._add(start, stop)

    def _add(self, start: int, stop: int) -> None:
        insort(self.starts, start)
        self._stop_by_start[start] = stop
        self._start_by_stop[stop] = start

    def _remove(self, start: int) -> None:
        del self.starts[bisect_left(self.starts, start)]
        del self._start_by_stop[self._stop_by_start.pop(start)]


def contiguous_runs(pages: Iterable[int]) -> list[tuple[int, int]]:
    """Return the maximal runs [start, stop) of adjacent pages, in the order of `pages`."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and runs[-1][1] == page:
            runs[-1] = (runs[-1][0], page + 1)
        else:
            runs.append((page, page + 1))
    return runs
