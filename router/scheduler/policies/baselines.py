"""What LAPS-SD is measured against, under the same planner and with the same estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.scheduler.api import Outcome, RowEnded
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.multilevel_queue import MultilevelQueue, RankInLevel
from router.scheduler.policies.sorted_rows import SortedRows
from router.scheduler.row import Row


class Fcfs:
    """First come, first served; ties by id. Nobody starves: the oldest row is always first."""

    level_count = 1
    perceptible_count = 0

    def __init__(self) -> None:
        self._sorted_rows = SortedRows()

    def is_perceptible(self, row: Row) -> bool:
        return False

    def level(self, row: Row) -> int:
        return 1

    def add(self, row: Row, now: float) -> None:
        self._sorted_rows.put(row, (row.job.arrived, row.job.id))

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        pass

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._sorted_rows.remove(row)

    def order(self, now: float, page_usage: float) -> Sequence[Row]:
        return self._sorted_rows.rows


class _MultilevelPolicy:
    """What the policies below share: an order by level and rank, and ageing."""

    perceptible_count = 0

    def __init__(self, queue: MultilevelQueue) -> None:
        self._queue = queue

    @property
    def level_count(self) -> int:
        return self._queue.count

    def is_perceptible(self, row: Row) -> bool:
        return False

    def level(self, row: Row) -> int:
        return self._queue.level(row)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._queue.remove(row)

    def order(self, now: float, page_usage: float) -> Sequence[Row]:
        return self._queue.order(now)


class Las(_MultilevelPolicy):
    """Least attained service in the same levels as LAPS-SD, without any prediction."""

    def add(self, row: Row, now: float) -> None:
        self._queue.add(row, 1, (0.0,), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._queue.record_service(row, outcome, now)
        self._queue.demote(row)


class SizeRanked(_MultilevelPolicy):
    """One level, ranked by a size that is known at arrival and followed while a row is served.

    E-SRPT is this order by the estimated remaining execution time.
    """

    def __init__(self, queue: MultilevelQueue, size: Callable[[Row], float]) -> None:
        """`levels`: one level, for its ageing."""
        super().__init__(queue)
        self._size = size

    def add(self, row: Row, now: float) -> None:
        self._queue.add(row, 1, self._rank(row), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._queue.record_service(row, outcome, now)
        self._queue.move(row, 1, self._rank(row))

    def _rank(self, row: Row) -> RankInLevel:
        return (self._size(row),)


class LengthSjf(SizeRanked):
    """Shortest predicted answer first, whatever its acceptance: the whole answer, not what is left.

    A started row is not displaced, unless `preemptive`.
    """

    def __init__(
        self, queue: MultilevelQueue, estimator: Estimator, *, preemptive: bool = False
    ) -> None:
        """`levels`: one level, for its ageing."""
        super().__init__(
            queue, lambda row: row.emitted + estimator.expected_remaining_tokens(row, row.emitted)
        )
        self._preemptive = preemptive
        self._waiting: dict[int, Row] = {}

    def add(self, row: Row, now: float) -> None:
        self._waiting[row.job.id] = row
        super().add(row, now)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._waiting.pop(row.job.id, None)
        super().remove(row, end)

    def order(self, now: float, page_usage: float) -> Sequence[Row]:
        # A row is first served between two orders, and nobody says so.
        for row in [row for row in self._waiting.values() if row.started]:
            del self._waiting[row.job.id]
            self._queue.move(row, 1, self._rank(row))
        return self._queue.order(now)

    def _rank(self, row: Row) -> RankInLevel:
        if row.started and not self._preemptive:
            return (0, 0.0)
        return (1, self._size(row))
