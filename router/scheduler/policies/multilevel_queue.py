"""The multi-level queue of the size-based policies: the level of each row, and ageing.

Level 1 is served first, K last; level j is for up to `Sup_j = M^(j-1) * Sup_1` seconds (of service,
or of estimated time). A row may be moved at any time. With a `patience` a row enters level 0 once
it has been live for the patience and for `MAX_SLOWDOWN` times the service that it is expected to
need alone, whichever is later. Level 0 is served before all others, by arrival, and no row leaves
it before it ends.

Bound: only rows that arrived before it are ever ahead of a row in level 0, and the planner always
serves the first row. So from then on it waits for no later arrival, and no longer than under first
come, first served: none takes its pages, or undoes its prefill, but an older one.

Knows no sizes: a policy passes level and rank.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

from router.scheduler.policies.sorted_rows import SortedRows, SortKey
from router.scheduler.row import Row

RankInLevel = tuple[Any, ...]
"""Rank inside a level, least first, such as a kind, and a size within the kind."""


MAX_SLOWDOWN = 10.0
"""Multiple of its expected service that a row may be live before it enters level 0."""
RECHECKS = 4
"""Checks per patience of a row whose expected service is what keeps it out of level 0."""


@dataclass(slots=True, eq=False)
class _QueuedRow:
    row: Row
    level: int
    rank: RankInLevel
    order_entered: int
    arrival: int
    """Place in the order of arrival."""
    added: float
    """When the row was added, in seconds."""
    aged: bool = False
    """Whether it is in level 0."""


class MultilevelQueue:
    """Live rows in K levels, with ageing."""

    def __init__(
        self,
        thresholds: Iterable[float],
        patience: float | None,
        expected_service: Callable[[Row], float] = lambda row: 0.0,
    ) -> None:
        """`thresholds`: Sup_1..Sup_(K-1) in seconds, rising. `patience`: None for no ageing.

        `expected_service`: seconds that a row needs alone, from its arrival to its end. Raises
        ValueError for thresholds that do not rise, and for a patience that is not positive.
        """
        self.set_thresholds(thresholds)
        if patience is not None and patience <= 0:
            raise ValueError(f"patience {patience} must be positive")
        self._patience = patience
        self._recheck_interval = (patience or 0.0) / RECHECKS
        self._expected_service = expected_service
        self._sorted_rows = SortedRows()
        self._queued: dict[int, _QueuedRow] = {}
        self._checks: list[tuple[float, int, _QueuedRow]] = []
        """A heap of the time to check the age of a row, its place of arrival, and the row."""
        self._tickets = count()

    @classmethod
    def geometric(
        cls,
        levels: int,
        ratio: float,
        first_threshold: float,
        patience: float | None,
        expected_service: Callable[[Row], float] = lambda row: 0.0,
    ) -> MultilevelQueue:
        """Return K = `levels` levels with Sup_j = ratio^(j-1) * first_threshold."""
        thresholds = (first_threshold * ratio**j for j in range(levels - 1))
        return cls(thresholds, patience, expected_service)

    def set_thresholds(self, thresholds: Iterable[float]) -> None:
        """Change the thresholds; rows keep their levels until they are moved.

        Raises ValueError for thresholds that do not rise.
        """
        self.thresholds = tuple(thresholds)
        self.count = len(self.thresholds) + 1
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"thresholds must rise: {self.thresholds}")

    def level_for(self, seconds: float) -> int:
        """Return the level j with Sup_(j-1) < `seconds` <= Sup_j; Sup_K is infinite."""
        return bisect_left(self.thresholds, seconds) + 1

    def add(self, row: Row, level: int, rank: RankInLevel, now: float) -> None:
        """Add a row that has just arrived."""
        ticket = next(self._tickets)
        queued = _QueuedRow(row, level, rank, ticket, ticket, now)
        self._queued[row.job.id] = queued
        self._reposition(queued)
        if self._patience is not None:
            heappush(self._checks, (now + self._patience, ticket, queued))

    def remove(self, row: Row) -> None:
        """Remove a row."""
        del self._queued[row.job.id]
        self._sorted_rows.remove(row)

    def level(self, row: Row) -> int:
        """Return the level in which the row is served; 0 after `patience`."""
        queued = self._queued[row.job.id]
        return 0 if queued.aged else queued.level

    def rank(self, row: Row) -> RankInLevel:
        """Return the rank that a row was given last."""
        return self._queued[row.job.id].rank

    def move(self, row: Row, level: int, rank: RankInLevel) -> None:
        """Move a row. It enters a new level as the last by order of entry; in level 0 it stays."""
        queued = self._queued[row.job.id]
        if level != queued.level:
            queued.level, queued.order_entered = level, next(self._tickets)
        elif rank == queued.rank:
            return
        queued.rank = rank
        if not queued.aged:
            self._reposition(queued)

    def demote(self, row: Row) -> None:
        """Move a row down one level if its attained service exceeds its level's threshold."""
        queued = self._queued[row.job.id]
        if queued.level < self.count and row.device_seconds > self.thresholds[queued.level - 1]:
            self.move(row, queued.level + 1, queued.rank)

    def order(self, now: float) -> list[Row]:
        """Return all rows, first to be served first, after promoting those that are due."""
        while self._checks and self._checks[0][0] <= now:
            _, arrival, queued = heappop(self._checks)
            if self._queued.get(queued.row.job.id) is queued:
                due = queued.added + MAX_SLOWDOWN * self._expected_service(queued.row)
                if due <= now:
                    queued.aged = True
                    self._reposition(queued)
                else:
                    # The estimate may fall: look again before it says so.
                    due = min(due, now + self._recheck_interval)
                    heappush(self._checks, (due, arrival, queued))
        return self._sorted_rows.rows

    def _reposition(self, queued: _QueuedRow) -> None:
        self._sorted_rows.put(queued.row, self._sort_key(queued))

    def _sort_key(self, queued: _QueuedRow) -> SortKey:
        if queued.aged:
            return (0, queued.arrival)
        return (queued.level, *queued.rank, queued.order_entered)
