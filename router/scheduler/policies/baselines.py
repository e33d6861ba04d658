"""What LAPS-SD is measured against, under the same planner and with the same estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.scheduler.api import End, Outcome
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.multilevel_queue import Levels, Rank
from router.scheduler.policies.sorted_rows import Ranking
from router.scheduler.row import Row


class Fcfs:
    """First come, first served; ties by id. Nobody starves: the oldest row is always first."""

    levels = 1
    perceptible = 0

    def __init__(self) -> None:
        self._ranking = Ranking()

    def perceives(self, row: Row) -> bool:
        return False

    def level(self, row: Row) -> int:
        return 1

    def arrive(self, row: Row, now: float) -> None:
        self._ranking.put(row, (row.job.arrived, row.job.id))

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        pass

    def leave(self, row: Row, end: End | None) -> None:
        self._ranking.remove(row)

    def order(self, now: float, used: float) -> Sequence[Row]:
        return self._ranking.rows


class _Levelled:
    """What the policies below share: an order by level and rank, and ageing."""

    perceptible = 0

    def __init__(self, levels: Levels) -> None:
        self._levels = levels

    @property
    def levels(self) -> int:
        return self._levels.count

    def perceives(self, row: Row) -> bool:
        return False

    def level(self, row: Row) -> int:
        return self._levels.level(row)

    def leave(self, row: Row, end: End | None) -> None:
        self._levels.leave(row)

    def order(self, now: float, used: float) -> Sequence[Row]:
        return self._levels.order(now)


class Las(_Levelled):
    """Least attained service in the same levels as LAPS-SD, without any prediction."""

    def arrive(self, row: Row, now: float) -> None:
        self._levels.enter(row, 1, (0.0,), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._levels.serve(row, outcome, now)
        self._levels.demote(row)


class Ranked(_Levelled):
    """One level, ranked by a size that is known at arrival and followed while a row is served.

    E-SRPT is this order by the estimated remaining execution time.
    """

    def __init__(self, levels: Levels, size: Callable[[Row], float]) -> None:
        """`levels`: one level, for its ageing."""
        super().__init__(levels)
        self._size = size

    def arrive(self, row: Row, now: float) -> None:
        self._levels.enter(row, 1, self._rank(row), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._levels.serve(row, outcome, now)
        self._levels.move(row, 1, self._rank(row))

    def _rank(self, row: Row) -> Rank:
        return (self._size(row),)


class LengthSjf(Ranked):
    """Shortest predicted answer first, whatever its acceptance: the whole answer, not what is left.

    A started row is not displaced, unless `preemptive`.
    """

    def __init__(self, levels: Levels, estimator: Estimator, *, preemptive: bool = False) -> None:
        """`levels`: one level, for its ageing."""
        super().__init__(levels, lambda row: row.emitted + estimator.left(row, row.emitted))
        self._preemptive = preemptive
        self._waiting: dict[int, Row] = {}

    def arrive(self, row: Row, now: float) -> None:
        self._waiting[row.job.id] = row
        super().arrive(row, now)

    def leave(self, row: Row, end: End | None) -> None:
        self._waiting.pop(row.job.id, None)
        super().leave(row, end)

    def order(self, now: float, used: float) -> Sequence[Row]:
        # A row is first served between two orders, and nobody says so.
        for row in [row for row in self._waiting.values() if row.started]:
            del self._waiting[row.job.id]
            self._levels.move(row, 1, self._rank(row))
        return self._levels.order(now)

    def _rank(self, row: Row) -> Rank:
        if row.started and not self._preemptive:
            return (0, 0.0)
        return (1, self._size(row))
