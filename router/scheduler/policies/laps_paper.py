"""LAPS-SD (arXiv 2505.17074, Algorithm 1): least attained service until acceptance is predictable.

A request starts non-perceptible in queue 1 and sinks by one queue after a round that leaves its
attained service above Sup_j. Once its acceptance rate is stable it is perceptible: its execution
time is known well enough to put it into the queue whose bracket holds it. There is no way back.
Every round serves the highest queue that is not empty. Inside a queue perceptible requests come
first, the shortest time ahead; the others keep the order in which they entered, so they do not
preempt one another.

The paper does not specify, and this file chooses: the meaning of the two stability thresholds, the
order of the two kinds in a queue, that a perceptible request's time is that of the remainder and is
updated after each round, and that prefill counts as service. More than one row or Step in flight is
not in the paper either: a batch is the beginning of the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from router.scheduler.acceptance import AcceptanceStability
from router.scheduler.api import DeviceCapacity, Outcome, RowEnded
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.builders import level_queue, published_estimator
from router.scheduler.policies.multilevel_queue import MultilevelQueue, RankInLevel
from router.scheduler.policies.policy import Policy
from router.scheduler.row import Row

if TYPE_CHECKING:  # the configuration lists the policies, so it imports them
    from router.scheduler.config import SchedulerConfig

_NON_PERCEPTIBLE: RankInLevel = (1, 0.0)


def build(config: SchedulerConfig, capacity: DeviceCapacity) -> tuple[Policy, Estimator]:
    """Build `laps-sd-paper`."""
    estimator = published_estimator(config, capacity)
    queue = level_queue(config, capacity, estimator)
    return LapsPaper(estimator, queue, config.laps_window, config.laps_deviation), estimator


class LapsPaper:
    """The paper's policy. `window` is its gamma in rounds, `deviation` its delta."""

    def __init__(
        self, estimator: Estimator, queue: MultilevelQueue, window: int, deviation: float
    ) -> None:
        """Raises ValueError for a window or a deviation that make no sense."""
        AcceptanceStability(window, deviation)  # fail now, not at the first request
        self._estimator = estimator
        self._queue = queue
        self._stability = (window, deviation)
        self._non_perceptible: dict[int, tuple[Row, AcceptanceStability]] = {}
        """Non-perceptible rows."""
        self._perceptible: dict[int, Row] = {}

    @property
    def level_count(self) -> int:
        return self._queue.count

    @property
    def perceptible_count(self) -> int:
        return len(self._perceptible)

    def is_perceptible(self, row: Row) -> bool:
        return row.job.id in self._perceptible

    def level(self, row: Row) -> int:
        return self._queue.level(row)

    def add(self, row: Row, now: float) -> None:
        self._non_perceptible[row.job.id] = row, AcceptanceStability(*self._stability)
        self._queue.add(row, 1, _NON_PERCEPTIBLE, now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        if row.job.id in self._non_perceptible:
            self._observe_stability(row, outcome)
        if row.job.id in self._perceptible:
            self._move_to_estimate(row)
        else:
            self._queue.demote(row)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._queue.remove(row)
        self._non_perceptible.pop(row.job.id, None)
        self._perceptible.pop(row.job.id, None)

    def order(self, now: float) -> Sequence[Row]:
        return self._queue.order(now)

    def set_thresholds(self, thresholds: Iterable[float]) -> None:
        """Change the queues: every row moves to the queue of its estimate or attained service.

        Raises ValueError for thresholds that do not rise.
        """
        self._queue.set_thresholds(thresholds)
        for row in self._perceptible.values():
            self._move_to_estimate(row)
        for row, _ in self._non_perceptible.values():
            self._queue.move(row, self._queue.level_for(row.device_seconds), _NON_PERCEPTIBLE)

    def _observe_stability(self, row: Row, outcome: Outcome) -> None:
        _, stability = self._non_perceptible[row.job.id]
        stability.observe(outcome.drafted, outcome.accepted)
        no_drafts = row.draft_length == 0 and row.emitted > 0  # nothing to learn
        if no_drafts or stability.is_stable:
            del self._non_perceptible[row.job.id]
            self._perceptible[row.job.id] = row

    def _move_to_estimate(self, row: Row) -> None:
        seconds = self._estimator.remaining_seconds(row)
        self._queue.move(row, self._queue.level_for(seconds), (0, seconds))
