"""The multi-level queue of the size-based policies: who stands where, and who rises by age.

Level 1 is served first, K last; level j holds up to `Sup_j = M^(j-1) * Sup_1` seconds (of service,
or of estimated time). A row may move at any time. With a `patience` it rises by age: one level for
each of `stairs` equal shares of the patience without service, and to level 0 with the last. Level
0 is served before all others, in the order in which rows got there. A risen row keeps its rise
until it has received `quantum` seconds and, since an eviction undoes everything but emitted tokens,
has emitted in that last Step.

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
from router.scheduler.policies.sorted_rows import Key, Ranking
from router.scheduler.row import Row

Rank = tuple[Any, ...]
"""Place inside a level, least first, such as a kind, and a size within the kind."""


@dataclass(slots=True, eq=False)
class _Place:
    row: Row
    level: int
    rank: Rank
    entered: int
    served: float
    """When the row was last served, or arrived."""
    risen: int = 0
    credit: float = 0.0
    now: int = 0
    """Level less rise, at least 0."""


class Levels:
    """Live rows in K levels with ageing."""

    def __init__(
        self,
        thresholds: Iterable[float],
        patience: float | None,
        quantum: float,
        stairs: int | None = None,
    ) -> None:
        """`thresholds`: Sup_1..Sup_(K-1), rising, in seconds. `patience`: None, nobody rises.

        `stairs`: K unless given. Raises ValueError for thresholds that do not rise, and for times
        that are not positive.
        """
        self.recut(thresholds)
        if quantum <= 0 or (patience is not None and patience <= 0):
            raise ValueError(f"patience {patience} and quantum {quantum} must be positive")
        self._stairs = stairs or self.count
        self._step = None if patience is None else patience / self._stairs
        self.quantum = quantum
        """Seconds that a risen row is served."""
        self._ranking = Ranking()
        self._places: dict[int, _Place] = {}
        self._due: list[tuple[float, int, int, float, _Place]] = []
        """When a row may rise, a ticket, the stair, since when it waits, the row; a heap."""
        self._tickets = count()

    @classmethod
    def geometric(cls, levels: int, ratio: float, first: float, patience: float | None) -> Levels:
        """K = `levels` with Sup_j = `ratio`^(j-1) * `first`; a risen row is served Sup_1."""
        return cls((first * ratio**j for j in range(levels - 1)), patience, first)

    def recut(self, thresholds: Iterable[float]) -> None:
        """Part the levels elsewhere; rows stay until they are moved.

        Raises ValueError for thresholds that do not rise.
        """
        self.thresholds = tuple(thresholds)
        self.count = len(self.thresholds) + 1
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"thresholds must rise: {self.thresholds}")

    def bracket(self, seconds: float) -> int:
        """The level j with Sup_(j-1) < `seconds` <= Sup_j, where Sup_K has no end."""
        return bisect_left(self.thresholds, seconds) + 1

    def enter(self, row: Row, level: int, rank: Rank, now: float) -> None:
        """Take a row that has just arrived."""
        place = _Place(row, level, rank, next(self._tickets), now)
        self._places[row.job.id] = place
        self._put(place)
        self._await(place, 1)

    def leave(self, row: Row) -> None:
        """Forget a row."""
        del self._places[row.job.id]
        self._ranking.remove(row)

    def level(self, row: Row) -> int:
        """Where the row is served now, 0 for the aged."""
        return self._places[row.job.id].now

    def move(self, row: Row, level: int, rank: Rank) -> None:
        """Put a row elsewhere; it enters a new level as its latest, and keeps its rise."""
        place = self._places[row.job.id]
        if level != place.level:
            place.level, place.entered = level, next(self._tickets)
        elif rank == place.rank:
            return
        place.rank = rank
        if place.now:
            self._put(place)

    def demote(self, row: Row) -> None:
        """Let a row sink one level if its attained service exceeds its level's threshold."""
        place = self._places[row.job.id]
        if place.level < self.count and row.attained > self.thresholds[place.level - 1]:
            self.move(row, place.level + 1, place.rank)

    def serve(self, row: Row, outcome: Outcome, now: float) -> None:
        """A Step served `row`; its wait starts anew, and its rise may be used up."""
        place = self._places[row.job.id]
        place.served = now
        if place.risen:
            place.credit -= outcome.seconds
            if place.credit <= 0 and outcome.emitted:
                aged = not place.now
                place.risen = 0
                self._put(place)
                if aged:
                    self._await(place, 1)

    def order(self, now: float) -> list[Row]:
        """All rows, first to be served first, after those that waited too long have risen."""
        while self._due and self._due[0][0] <= now:
            _, _, stair, since, place = heappop(self._due)
            if self._places.get(place.row.job.id) is not place:
                continue
            if place.served != since:
                self._await(place, 1)
            else:
                self._age(place, stair)
        return self._ranking.rows

    def _age(self, place: _Place, stair: int) -> None:
        risen = place.level if stair >= self._stairs else min(place.level, stair)
        if risen > place.risen:
            place.risen, place.credit = risen, self.quantum
            self._put(place)
        if place.now:
            self._await(place, stair + 1)

    def _await(self, place: _Place, stair: int) -> None:
        """Look again when `place` may have earned this stair."""
        if self._step is not None:
            due = place.served + stair * self._step
            heappush(self._due, (due, next(self._tickets), stair, place.served, place))

    def _put(self, place: _Place) -> None:
        place.now = max(0, place.level - place.risen)
        self._ranking.put(place.row, self._key(place))

    def _key(self, place: _Place) -> Key:
        if not place.now:
            return (0, next(self._tickets))
        return (place.now, *place.rank, place.entered)
