"""What LAPS-SD is compared with, under the same planner and with the same estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from router.scheduler.api import DeviceCapacity, Outcome, RowEnded
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.builders import level_queue, published_estimator, single_queue
from router.scheduler.policies.incremental_order import IncrementalOrder, RankLike
from router.scheduler.policies.multilevel_queue import MultilevelQueue, RankInLevel
from router.scheduler.policies.policy import Policy
from router.scheduler.policies.sorted_rows import SortedRows
from router.scheduler.policies.waiting_twins import KindOf, exact_kind
from router.scheduler.row import Row

if TYPE_CHECKING:  # the configuration lists the policies, so it imports them
    from router.scheduler.config import SchedulerConfig


def build_fcfs(config: SchedulerConfig, capacity: DeviceCapacity) -> tuple[Policy, Estimator]:
    """Build `fcfs`."""
    return Fcfs(), published_estimator(config, capacity)


def build_las(config: SchedulerConfig, capacity: DeviceCapacity) -> tuple[Policy, Estimator]:
    """Build `las`."""
    estimator = published_estimator(config, capacity)
    return Las(level_queue(config, capacity, estimator)), estimator


def build_sjf(config: SchedulerConfig, capacity: DeviceCapacity) -> tuple[Policy, Estimator]:
    """Build `sjf`."""
    estimator = published_estimator(config, capacity)
    return LengthSjf(single_queue(config, estimator), estimator), estimator


def build_preemptive_sjf(
    config: SchedulerConfig, capacity: DeviceCapacity
) -> tuple[Policy, Estimator]:
    """Build `sjf-preemptive`."""
    estimator = published_estimator(config, capacity)
    return LengthSjf(single_queue(config, estimator), estimator, preemptive=True), estimator


def build_esrpt(config: SchedulerConfig, capacity: DeviceCapacity) -> tuple[Policy, Estimator]:
    """Build `e-srpt`."""
    estimator = published_estimator(config, capacity)
    queue = single_queue(config, estimator)
    return SizeRanked(queue, estimator.remaining_seconds, exact_kind), estimator


class Fcfs:
    """First come, first served; ties by id. No request starves: the oldest is always first."""

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

    def order(self, now: float) -> Sequence[Row]:
        return self._sorted_rows.rows


class Las:
    """Least attained service in the same levels as LAPS-SD, without any prediction."""

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

    def add(self, row: Row, now: float) -> None:
        self._queue.add(row, 1, (), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._queue.demote(row)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._queue.remove(row)

    def order(self, now: float) -> Sequence[Row]:
        return self._queue.order(now)


class _RankedPolicy:
    """What the policies below share: one level, an order by rank, and ageing."""

    level_count = 1
    perceptible_count = 0

    def __init__(self, queue: MultilevelQueue, rank: RankLike, kind: KindOf) -> None:
        self._order = IncrementalOrder(queue, rank, kind)

    def is_perceptible(self, row: Row) -> bool:
        return False

    def level(self, row: Row) -> int:
        return 0 if self._order.is_aged(row) else 1

    def add(self, row: Row, now: float) -> None:
        self._order.add(row, now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._order.observe(row)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._order.remove(row)
        self._order.mark_stale()

    def order(self, now: float) -> Sequence[Row]:
        return self._order.rows(now)


class SizeRanked(_RankedPolicy):
    """One level, ranked by a size that is known at arrival and updated while a row is served.

    E-SRPT is this order by the estimated remaining execution time.
    """

    def __init__(
        self,
        queue: MultilevelQueue,
        size: Callable[[Row], float],
        kind: KindOf = lambda job: job.id,
    ) -> None:
        """`queue`: one level, for its ageing. `size`: least first.

        `kind`: of requests whose sizes are equal before they are served; default: no two.
        """
        super().__init__(queue, lambda row, like: (size(like),), kind)


class LengthSjf(_RankedPolicy):
    """Shortest predicted answer first: the whole answer, not what is left, at any acceptance.

    A started row is not displaced, unless `preemptive`.
    """

    def __init__(
        self, queue: MultilevelQueue, estimator: Estimator, *, preemptive: bool = False
    ) -> None:
        """`queue`: one level, for its ageing."""

        def rank(row: Row, like: Row) -> RankInLevel:
            if row.started and not preemptive:
                return (0, 0.0)
            return (1, like.emitted + estimator.expected_remaining_tokens(like, like.emitted))

        super().__init__(queue, rank, exact_kind)
        self._waiting: dict[int, Row] = {}

    def add(self, row: Row, now: float) -> None:
        self._waiting[row.job.id] = row
        super().add(row, now)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._waiting.pop(row.job.id, None)
        super().remove(row, end)

    def order(self, now: float) -> Sequence[Row]:
        # A row is first scheduled between two calls of `order`, without a call of `observe`.
        for row in [row for row in self._waiting.values() if row.started]:
            del self._waiting[row.job.id]
            self._order.update(row)
        return super().order(now)
