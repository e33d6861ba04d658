"""The multi-level queue of the size-based policies: who stands where, and who rises by age.

Level 1 is served first, K last; level j holds up to `Sup_j = M^(j-1) * Sup_1` seconds (of service,
or of estimated time). A row may move at any time, and rises one level for every `patience / K`
seconds without service. Above level 1 lies level 0, served in the order in which rows got there.
A risen row keeps its rise until it has received `quantum` seconds and, since an eviction undoes
everything but emitted tokens, has emitted in that last Step.

Bound: after `patience` seconds without service a row stands in level 0. Nobody enters level 0
ahead of it, and the planner always serves the first row, which leaves after its quantum. So with
N live rows nobody goes without service for longer than `patience` and N - 1 turns of others, and
each turn brings its row at least a token nearer to its end, for good.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from router.scheduler.base import Outcome
from router.scheduler.row import Row

Rank = tuple[int, float]
"""Place inside a level, least first: a kind, and a size within the kind."""


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
    key: tuple[int, int, float, int] = (0, 0, 0.0, 0)


class Levels:
    """Live rows in K levels with ageing."""

    def __init__(self, thresholds: Iterable[float], patience: float, quantum: float) -> None:
        """`thresholds`: Sup_1..Sup_(K-1), rising, in seconds. Raises ValueError for others."""
        self.thresholds = tuple(thresholds)
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"thresholds must rise: {self.thresholds}")
        if patience <= 0 or quantum <= 0:
            raise ValueError(f"patience {patience} and quantum {quantum} must be positive")
        self.count = len(self.thresholds) + 1
        self._step = patience / self.count
        self._quantum = quantum
        self._places: dict[int, _Place] = {}
        self._tickets = count()

    @classmethod
    def geometric(cls, levels: int, ratio: float, first: float, patience: float) -> Levels:
        """K = `levels` with Sup_j = `ratio`^(j-1) * `first`; a risen row is served Sup_1."""
        return cls((first * ratio**j for j in range(levels - 1)), patience, first)

    def bracket(self, seconds: float) -> int:
        """The level j with Sup_(j-1) < `seconds` <= Sup_j, where Sup_K has no end."""
        return bisect_left(self.thresholds, seconds) + 1

    def enter(self, row: Row, level: int, rank: Rank, now: float) -> None:
        """Take a row that has just arrived."""
        place = _Place(row, level, rank, next(self._tickets), now)
        place.key = self._key(place)
        self._places[row.job.id] = place

    def leave(self, row: Row) -> None:
        """Forget a row."""
        del self._places[row.job.id]

    def level(self, row: Row) -> int:
        """Where the row is served now, 0 for the aged."""
        return self._places[row.job.id].key[0]

    def move(self, row: Row, level: int, rank: Rank) -> None:
        """Put a row elsewhere; it enters a new level as its latest, and keeps its rise."""
        place = self._places[row.job.id]
        if level != place.level:
            place.level, place.entered = level, next(self._tickets)
        place.rank = rank
        if place.key[0]:
            place.key = self._key(place)

    def demote(self, row: Row) -> None:
        """Let a row sink to the level that its attained service deserves; never lifts it."""
        place = self._places[row.job.id]
        self.move(row, max(place.level, self.bracket(row.attained)), place.rank)

    def serve(self, row: Row, outcome: Outcome, now: float) -> None:
        """A Step served `row`; its wait starts anew, and its rise may be used up."""
        place = self._places[row.job.id]
        place.served = now
        if place.risen:
            place.credit -= outcome.seconds
            if place.credit <= 0 and outcome.emitted:
                place.risen = 0
                place.key = self._key(place)

    def order(self, now: float) -> list[Row]:
        """All rows, first to be served first, after those that waited too long have risen."""
        due = now - self._step
        for place in self._places.values():
            if place.served <= due:
                self._age(place, now)
        # Every key ends in a ticket of its own, so rows are never compared.
        return [row for _, row in sorted([(p.key, p.row) for p in self._places.values()])]

    def _age(self, place: _Place, now: float) -> None:
        risen = min(place.level, int((now - place.served) / self._step))
        if risen > place.risen:
            place.risen, place.credit = risen, self._quantum
            if place.key[0]:
                place.key = self._key(place)

    def _key(self, place: _Place) -> tuple[int, int, float, int]:
        level = place.level - place.risen
        if level <= 0:
            return (0, 0, 0.0, next(self._tickets))
        return (level, *place.rank, place.entered)
