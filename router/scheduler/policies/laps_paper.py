"""LAPS-SD (arXiv 2505.17074, Algorithm 1): least attained service until acceptance is predictable.

A request starts non-perceptible in queue 1 and sinks by one queue after a round that leaves its
attained service above Sup_j. Once its acceptance rate is stable it is perceptible: its execution
time is known well enough to put it into the queue whose bracket holds it. There is no way back.
Every round serves the highest queue that is not empty. Inside a queue perceptible requests come
first, the shortest time ahead; the others keep the order in which they entered, so they do not
preempt one another.

Where the paper is silent the choice is ours: the meaning of the two stability thresholds, the order
of the two kinds in a queue, that a perceptible request's time is the remainder and follows it from
round to round and from queue to queue, and that prefill counts as service. More than one row or
Step in flight is ours as well: the batch is the beginning of the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.scheduler.acceptance import Stability
from router.scheduler.api import End, Outcome
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.multilevel_queue import Levels, Rank
from router.scheduler.row import Row

_BLIND: Rank = (1, 0.0)


class Paper:
    """The paper's policy. `window` is its gamma in rounds, `deviation` its delta."""

    def __init__(self, estimator: Estimator, levels: Levels, window: int, deviation: float) -> None:
        """Raises ValueError for a window or a deviation that mean nothing."""
        Stability(window, deviation)  # refuses them now, not at the first request
        self._estimator = estimator
        self._levels = levels
        self._stability = (window, deviation)
        self._blind: dict[int, tuple[Row, Stability]] = {}
        """Non-perceptible rows."""
        self._perceptible: dict[int, Row] = {}

    @property
    def levels(self) -> int:
        return self._levels.count

    @property
    def perceptible(self) -> int:
        return len(self._perceptible)

    def perceives(self, row: Row) -> bool:
        return row.job.id in self._perceptible

    def level(self, row: Row) -> int:
        return self._levels.level(row)

    def arrive(self, row: Row, now: float) -> None:
        self._blind[row.job.id] = row, Stability(*self._stability)
        self._levels.enter(row, 1, _BLIND, now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._levels.serve(row, outcome, now)
        if row.job.id in self._blind:
            self._watch(row, outcome)
        if row.job.id in self._perceptible:
            self._estimate(row)
        else:
            self._levels.demote(row)

    def leave(self, row: Row, end: End | None) -> None:
        self._levels.leave(row)
        self._blind.pop(row.job.id, None)
        self._perceptible.pop(row.job.id, None)

    def order(self, now: float, used: float) -> Sequence[Row]:
        return self._levels.order(now)

    def recut(self, thresholds: Iterable[float]) -> None:
        """Other queues: every row goes where its estimate, or its attained service, belongs.

        Raises ValueError for thresholds that do not rise.
        """
        self._levels.recut(thresholds)
        for row in self._perceptible.values():
            self._estimate(row)
        for row, _ in self._blind.values():
            self._levels.move(row, self._levels.bracket(row.attained), _BLIND)

    def _watch(self, row: Row, outcome: Outcome) -> None:
        _, stability = self._blind[row.job.id]
        stability.observe(outcome.drafted, outcome.accepted)
        settled = row.draft == 0 and row.emitted > 0  # nothing to learn without drafts
        if settled or stability.stable:
            del self._blind[row.job.id]
            self._perceptible[row.job.id] = row

    def _estimate(self, row: Row) -> None:
        seconds = self._estimator.remaining(row)
        self._levels.move(row, self._levels.bracket(seconds), (0, seconds))
