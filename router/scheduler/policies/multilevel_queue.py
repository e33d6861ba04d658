"""The multi-level queue of the size-based policies: who stands where, and who rises by age.

Level 1 is served first, K last; level j holds up to `Sup_j = M^(j-1) * Sup_1` seconds (of service,
or of estimated time). A row may move at any time. With a `patience` it rises by age: one level for
each of `aging_steps` equal shares of the patience without service, and to level 0 with the last.
Level 0 is served before all others, in the order in which rows got there. A risen row keeps its
rise until it has received `quantum` seconds and, since an eviction undoes everything but emitted
tokens, has emitted in that last Step.

Bound: after `patience` seconds without service a row stands in level 0. Nobody enters level 0
ahead of it, and the planner always serves the first row, which leaves after its quantum. So with
N live rows nobody goes without service for longer than `patience` and N - 1 turns of others, and
each turn brings its row at least a token nearer to its end, for good.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

from router.scheduler.api import Outcome
from router.scheduler.policies.sorted_rows import SortedRows, SortKey
from router.scheduler.row import Row

RankInLevel = tuple[Any, ...]
"""Place inside a level, least first, such as a kind, and a size within the kind."""


@dataclass(slots=True, eq=False)
class _QueuedRow:
    row: Row
    level: int
    rank: RankInLevel
    order_entered: int
    last_served: float
    """When the row was last served, or arrived."""
    promoted_by: int = 0
    quantum_left: float = 0.0
    effective_level: int = 0
    """Level less rise, at least 0."""


class MultilevelQueue:
    """Live rows in K levels with ageing."""

    def __init__(
        self,
        thresholds: Iterable[float],
        patience: float | None,
        quantum: float,
        aging_steps: int | None = None,
    ) -> None:
        """`thresholds`: Sup_1..Sup_(K-1), rising, in seconds. `patience`: None, nobody rises.

        `aging_steps`: K unless given. Raises ValueError for thresholds that do not rise, and for
        times that are not positive.
        """
        self.set_thresholds(thresholds)
        if quantum <= 0 or (patience is not None and patience <= 0):
            raise ValueError(f"patience {patience} and quantum {quantum} must be positive")
        self._aging_steps = aging_steps or self.count
        self._aging_interval = None if patience is None else patience / self._aging_steps
        self.quantum = quantum
        """Seconds that a risen row is served."""
        self._sorted_rows = SortedRows()
        self._queued: dict[int, _QueuedRow] = {}
        self._promotions: list[tuple[float, int, int, float, _QueuedRow]] = []
        """When a row may rise, a ticket, the stair, since when it waits, the row; a heap."""
        self._tickets = count()

    @classmethod
    def geometric(
        cls, levels: int, ratio: float, first_threshold: float, patience: float | None
    ) -> MultilevelQueue:
        """K = `levels` with Sup_j = `ratio`^(j-1) * `first`; a risen row is served Sup_1."""
        return cls(
            (first_threshold * ratio**j for j in range(levels - 1)), patience, first_threshold
        )

    def set_thresholds(self, thresholds: Iterable[float]) -> None:
        """Part the levels elsewhere; rows stay until they are moved.

        Raises ValueError for thresholds that do not rise.
        """
        self.thresholds = tuple(thresholds)
        self.count = len(self.thresholds) + 1
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"thresholds must rise: {self.thresholds}")

    def level_for(self, seconds: float) -> int:
        """The level j with Sup_(j-1) < `seconds` <= Sup_j, where Sup_K has no end."""
        return bisect_left(self.thresholds, seconds) + 1

    def add(self, row: Row, level: int, rank: RankInLevel, now: float) -> None:
        """Take a row that has just arrived."""
        place = _QueuedRow(row, level, rank, next(self._tickets), now)
        self._queued[row.job.id] = place
        self._reposition(place)
        self._schedule_promotion(place, 1)

    def remove(self, row: Row) -> None:
        """Forget a row."""
        del self._queued[row.job.id]
        self._sorted_rows.remove(row)

    def level(self, row: Row) -> int:
        """Where the row is served now, 0 for the aged."""
        return self._queued[row.job.id].effective_level

    def move(self, row: Row, level: int, rank: RankInLevel) -> None:
        """Put a row elsewhere; it enters a new level as its latest, and keeps its rise."""
        place = self._queued[row.job.id]
        if level != place.level:
            place.level, place.order_entered = level, next(self._tickets)
        elif rank == place.rank:
            return
        place.rank = rank
        if place.effective_level:
            self._reposition(place)

    def demote(self, row: Row) -> None:
        """Let a row sink one level if its attained service exceeds its level's threshold."""
        place = self._queued[row.job.id]
        if place.level < self.count and row.device_seconds > self.thresholds[place.level - 1]:
            self.move(row, place.level + 1, place.rank)

    def record_service(self, row: Row, outcome: Outcome, now: float) -> None:
        """A Step served `row`; its wait starts anew, and its rise may be used up."""
        place = self._queued[row.job.id]
        place.last_served = now
        if place.promoted_by:
            place.quantum_left -= outcome.seconds
            if place.quantum_left <= 0 and outcome.emitted:
                aged = not place.effective_level
                place.promoted_by = 0
                self._reposition(place)
                if aged:
                    self._schedule_promotion(place, 1)

    def order(self, now: float) -> list[Row]:
        """All rows, first to be served first, after those that waited too long have risen."""
        while self._promotions and self._promotions[0][0] <= now:
            _, _, stair, since, place = heappop(self._promotions)
            if self._queued.get(place.row.job.id) is not place:
                continue
            if place.last_served != since:
                self._schedule_promotion(place, 1)
            else:
                self._promote(place, stair)
        return self._sorted_rows.rows

    def _promote(self, queued: _QueuedRow, aging_step: int) -> None:
        risen = queued.level if aging_step >= self._aging_steps else min(queued.level, aging_step)
        if risen > queued.promoted_by:
            queued.promoted_by, queued.quantum_left = risen, self.quantum
            self._reposition(queued)
        if queued.effective_level:
            self._schedule_promotion(queued, aging_step + 1)

    def _schedule_promotion(self, queued: _QueuedRow, aging_step: int) -> None:
        """Look again when `place` may have earned this stair."""
        if self._aging_interval is not None:
            due = queued.last_served + aging_step * self._aging_interval
            heappush(
                self._promotions, (due, next(self._tickets), aging_step, queued.last_served, queued)
            )

    def _reposition(self, queued: _QueuedRow) -> None:
        queued.effective_level = max(0, queued.level - queued.promoted_by)
        self._sorted_rows.put(queued.row, self._sort_key(queued))

    def _sort_key(self, queued: _QueuedRow) -> SortKey:
        if not queued.effective_level:
            return (0, next(self._tickets))
        return (queued.effective_level, *queued.rank, queued.order_entered)
