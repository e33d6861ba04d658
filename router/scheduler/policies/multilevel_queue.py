"""The multi-level queue of the size-based policies: the level of each row, and ageing.

Level 1 is served first, K last; level j is for up to `Sup_j = M^(j-1) * Sup_1` seconds (of service,
or of estimated time). A row may be moved at any time. With a `patience` rows are promoted by age:
one level for each of `aging_steps` equal parts of the patience without service, and to level 0 with
the last. Level 0 is served before all others, in order of entry. A promoted row keeps its promotion
until it has received `quantum` seconds and, since an eviction undoes everything but emitted tokens,
has emitted a token in the last of these Steps.

Bound: after `patience` seconds without service a row is in level 0. No row enters level 0 ahead of
it, and the planner always serves the first row, which leaves after its quantum. So with N live rows
none waits without service for longer than `patience` and N - 1 turns of others, and each turn emits
at least one token for good.

Knows no sizes: a policy passes level and rank.
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
"""Rank inside a level, least first, such as a kind, and a size within the kind."""


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
    """Level minus promotion, at least 0."""


class MultilevelQueue:
    """Live rows in K levels, with ageing."""

    def __init__(
        self,
        thresholds: Iterable[float],
        patience: float | None,
        quantum: float,
        aging_steps: int | None = None,
    ) -> None:
        """`thresholds`: Sup_1..Sup_(K-1) in seconds, rising. `patience`: None for no ageing.

        `aging_steps`: None for K. Raises ValueError for thresholds that do not rise, and for times
        that are not positive.
        """
        self.set_thresholds(thresholds)
        if quantum <= 0 or (patience is not None and patience <= 0):
            raise ValueError(f"patience {patience} and quantum {quantum} must be positive")
        self._aging_steps = aging_steps or self.count
        self._aging_interval = None if patience is None else patience / self._aging_steps
        self.quantum = quantum
        """Seconds for which a promoted row is served."""
        self._sorted_rows = SortedRows()
        self._queued: dict[int, _QueuedRow] = {}
        self._promotions: list[tuple[float, int, int, float, _QueuedRow]] = []
        """A heap of due time, ticket, ageing step, start of the wait, and row."""
        self._tickets = count()

    @classmethod
    def geometric(
        cls, levels: int, ratio: float, first_threshold: float, patience: float | None
    ) -> MultilevelQueue:
        """Return K = `levels` levels with Sup_j = ratio^(j-1) * first_threshold; quantum Sup_1."""
        return cls(
            (first_threshold * ratio**j for j in range(levels - 1)), patience, first_threshold
        )

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
        queued = _QueuedRow(row, level, rank, next(self._tickets), now)
        self._queued[row.job.id] = queued
        self._reposition(queued)
        self._schedule_promotion(queued, 1)

    def remove(self, row: Row) -> None:
        """Remove a row."""
        del self._queued[row.job.id]
        self._sorted_rows.remove(row)

    def level(self, row: Row) -> int:
        """Return the level in which the row is served; 0 after `patience`."""
        return self._queued[row.job.id].effective_level

    def rank(self, row: Row) -> RankInLevel:
        """Return the rank that a row was given last."""
        return self._queued[row.job.id].rank

    def move(self, row: Row, level: int, rank: RankInLevel) -> None:
        """Move a row. It enters a new level as the last by order of entry, and stays promoted."""
        queued = self._queued[row.job.id]
        if level != queued.level:
            queued.level, queued.order_entered = level, next(self._tickets)
        elif rank == queued.rank:
            return
        queued.rank = rank
        if queued.effective_level:
            self._reposition(queued)

    def demote(self, row: Row) -> None:
        """Move a row down one level if its attained service exceeds its level's threshold."""
        queued = self._queued[row.job.id]
        if queued.level < self.count and row.device_seconds > self.thresholds[queued.level - 1]:
            self.move(row, queued.level + 1, queued.rank)

    def record_service(self, row: Row, outcome: Outcome, now: float) -> None:
        """A Step served `row`: its wait starts again, and its promotion may end."""
        queued = self._queued[row.job.id]
        queued.last_served = now
        if queued.promoted_by:
            queued.quantum_left -= outcome.seconds
            if queued.quantum_left <= 0 and outcome.emitted:
                aged = not queued.effective_level
                queued.promoted_by = 0
                self._reposition(queued)
                if aged:
                    self._schedule_promotion(queued, 1)

    def order(self, now: float) -> list[Row]:
        """Return all rows, first to be served first, after promoting those that are due."""
        while self._promotions and self._promotions[0][0] <= now:
            _, _, aging_step, since, queued = heappop(self._promotions)
            if self._queued.get(queued.row.job.id) is not queued:
                continue
            if queued.last_served != since:
                self._schedule_promotion(queued, 1)
            else:
                self._promote(queued, aging_step)
        return self._sorted_rows.rows

    def _promote(self, queued: _QueuedRow, aging_step: int) -> None:
        levels = queued.level if aging_step >= self._aging_steps else min(queued.level, aging_step)
        if levels > queued.promoted_by:
            queued.promoted_by, queued.quantum_left = levels, self.quantum
            self._reposition(queued)
        if queued.effective_level:
            self._schedule_promotion(queued, aging_step + 1)

    def _schedule_promotion(self, queued: _QueuedRow, aging_step: int) -> None:
        """Check again when the row may be due for this ageing step."""
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
