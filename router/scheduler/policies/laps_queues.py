"""LAPS-SD's estimates in the paper's queues: `laps_rank` "queues".

As in `laps_paper` the time of a perceptible row decides its queue, and the attained service that of
the others. What may differ is where a row enters (`laps_join`), when it is perceptible
(`Perception`) and how its time is estimated. Priority goes first. With all of that as published it
makes the decisions of `laps_paper`, which is written independently of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from router.scheduler.api import Outcome, RowEnded
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.multilevel_queue import MultilevelQueue, RankInLevel
from router.scheduler.policies.perception import Perception
from router.scheduler.policies.waiting_twins import WaitingTwins, near_kind
from router.scheduler.row import Row

if TYPE_CHECKING:  # the configuration lists the policies, so it imports them
    from router.scheduler.config import SchedulerConfig


@dataclass(slots=True)
class _Position:
    """Where a row stands: its queue, since when, and its time if it is perceptible."""

    level: int
    order_entered: int
    seconds: float = 0.0


class LapsQueues:
    """The policy."""

    def __init__(
        self,
        estimator: Estimator,
        levels: MultilevelQueue,
        aging: MultilevelQueue,
        config: SchedulerConfig,
    ) -> None:
        """`levels`: K levels, for their thresholds only. `aging`: one level, for the order.

        Raises ValueError for a window or a deviation that make no sense.
        """
        self._estimator = estimator
        self._thresholds, self._aging = levels, aging
        self._joins_by_estimate = config.laps_join == "prior"
        self._perception = Perception(estimator, config)
        self._positions: dict[int, _Position] = {}
        self._tickets = count()
        self._twins = WaitingTwins(near_kind)

    @property
    def level_count(self) -> int:
        return self._thresholds.count

    @property
    def perceptible_count(self) -> int:
        return len(self._perception)

    def is_perceptible(self, row: Row) -> bool:
        return row in self._perception

    def level(self, row: Row) -> int:
        return self._positions[row.job.id].level if self._aging.level(row) else 0

    def add(self, row: Row, now: float) -> None:
        level = 1
        if self._joins_by_estimate:
            level = self._thresholds.level_for(self._estimator.remaining_seconds(row))
            self._move_twins(row, level)
        self._positions[row.job.id] = _Position(level, next(self._tickets))
        self._perception.add(row)
        self._aging.add(row, 1, self._rank(row), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._twins.discard(row)
        self._perception.observe(row, outcome)
        position = self._positions[row.job.id]
        level = self._next_level(row, position)
        if level != position.level:
            position.level, position.order_entered = level, next(self._tickets)
        self._aging.move(row, 1, self._rank(row))

    def remove(self, row: Row, end: RowEnded | None) -> None:
        del self._positions[row.job.id]
        self._twins.discard(row)
        self._perception.remove(row)
        self._aging.remove(row)

    def order(self, now: float) -> Sequence[Row]:
        return self._aging.order(now)

    def _move_twins(self, row: Row, level: int) -> None:
        """Rows of its kind that wait for their first service enter the queue of an arrival."""
        for twin in self._twins.of(row).values():
            self._positions[twin.job.id].level = level
            self._aging.move(twin, 1, self._rank(twin))
        self._twins.add(row)

    def _next_level(self, row: Row, position: _Position) -> int:
        """As in the paper: the time decides if it is known, otherwise the attained service."""
        if row in self._perception:
            position.seconds = self._estimator.remaining_seconds(row)
            return self._thresholds.level_for(position.seconds)
        if position.level == self._thresholds.count:
            return position.level
        return position.level + (
            row.device_seconds > self._thresholds.thresholds[position.level - 1]
        )

    def _rank(self, row: Row) -> RankInLevel:
        position = self._positions[row.job.id]
        kind = (0, position.seconds) if row in self._perception else (1, 0.0)
        return (row.job.priority, position.level, *kind, position.order_entered)
