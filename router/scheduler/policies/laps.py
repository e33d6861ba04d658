"""LAPS-SD for continuous batching: one order by estimated work, instead of queues.

Composes four parts that each know nothing of the others:

- `LapsRank`: estimated work (the Gittins index of the remaining time), weighed by priority, by the
  tail parameter and by fairness between tenants (VTC);
- `IncrementalOrder`: the order itself; the ranks of waiting rows are renewed a few at a time;
- `Perception`: which rows are perceptible, for the operator: this order needs no perception;
- the thresholds of the paper's queues, which turn a size into a level for the operator.

With `laps_rank` "queues" the estimates are used in the paper's queues instead: `laps_queues`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from router.scheduler.api import DeviceCapacity, Outcome, RowEnded
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.estimation.length import LearnedLengths
from router.scheduler.policies.builders import first_threshold, level_queue, single_queue
from router.scheduler.policies.incremental_order import IncrementalOrder
from router.scheduler.policies.laps_queues import LapsQueues
from router.scheduler.policies.laps_rank import LapsRank
from router.scheduler.policies.multilevel_queue import MultilevelQueue, RankInLevel
from router.scheduler.policies.perception import Perception
from router.scheduler.policies.policy import Policy
from router.scheduler.policies.waiting_twins import near_kind
from router.scheduler.row import Row

if TYPE_CHECKING:  # the configuration lists the policies, so it imports them
    from router.scheduler.config import SchedulerConfig

PATIENCE = 30.0
"""Seconds after which a request may go before all others, unless configured."""
DRIFT_THRESHOLD = 5.0
"""Threshold of the test that notices a drift of acceptance."""


def build(config: SchedulerConfig, capacity: DeviceCapacity) -> tuple[Policy, Estimator]:
    """Build `laps-sd`."""
    estimator = laps_estimator(config, capacity)
    levels = level_queue(config, capacity, estimator)
    aging = single_queue(config, estimator, PATIENCE)
    if config.laps_rank == "queues":
        return LapsQueues(estimator, levels, aging, config), estimator
    granularity = first_threshold(config, capacity)
    return Laps(estimator, levels, aging, config, granularity), estimator


def laps_estimator(config: SchedulerConfig, capacity: DeviceCapacity) -> Estimator:
    """Estimates that are corrected by what was served, and forget what drifted."""
    plain = config.laps_lengths == "plain"
    return Estimator(
        capacity,
        LearnedLengths(raw_hints=plain),
        track_cost=not plain,
        memory_rounds=config.laps_memory or inf,
        drift_threshold=DRIFT_THRESHOLD if config.laps_memory else 0.0,
        prior_rounds=config.laps_prior,
    )


class Laps:
    """The policy."""

    def __init__(
        self,
        estimator: Estimator,
        levels: MultilevelQueue,
        aging: MultilevelQueue,
        config: SchedulerConfig,
        granularity: float = 0.5,
    ) -> None:
        """`levels`: K levels, for their thresholds only. `aging`: one level, for the order.

        `granularity`: seconds of service below which tenants count as equally served.
        Raises ValueError for a window or a deviation that make no sense.
        """
        self._estimator = estimator
        self._thresholds = levels
        self._levels: dict[int, int] = {}
        """By id, of the size as last computed."""
        self._perception = Perception(estimator, config)
        self._rank = LapsRank(estimator, config, granularity)
        self._order = IncrementalOrder(aging, self._updated_rank, near_kind)
        self._lengths_version = 0
        """Of the learned lengths, when all ranks were last marked as stale."""

    @property
    def level_count(self) -> int:
        return self._thresholds.count

    @property
    def perceptible_count(self) -> int:
        return len(self._perception)

    def is_perceptible(self, row: Row) -> bool:
        return row in self._perception

    def level(self, row: Row) -> int:
        return 0 if self._order.is_aged(row) else self._levels[row.job.id]

    def add(self, row: Row, now: float) -> None:
        self._perception.add(row)
        self._rank.add(row)
        self._order.add(row, now)
        seconds = self._estimator.remaining_seconds(row)
        self._levels[row.job.id] = self._thresholds.level_for(seconds)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        if self._rank.record_service(row, outcome.seconds):
            self._order.mark_stale()
        self._perception.observe(row, outcome)
        self._order.observe(row)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        del self._levels[row.job.id]
        self._perception.remove(row)
        self._rank.remove(row)
        self._order.remove(row)

    def order(self, now: float) -> Sequence[Row]:
        version = self._estimator.lengths.version
        if version != self._lengths_version:
            self._lengths_version = version
            self._order.mark_stale()
        return self._order.rows(now)

    def _updated_rank(self, row: Row, like: Row) -> RankInLevel:
        if self._rank.update(row) if like is row else self._rank.copy_size(row, like):
            self._levels[row.job.id] = self._thresholds.level_for(self._rank.size(row))
        return self._rank.rank(row)
