"""The published algorithm with queues that adapt to the load, for comparison with fixed ones.

`fitted_thresholds` takes the number of queues from the number of live requests, by a line through
the paper's two best ones, six at 10 requests and four at 30. `quantile_thresholds` keeps four
queues with thresholds that give each an equal share of the work of recently ended requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import log2

from router.scheduler.api import DeviceCapacity, RowEnded, Scheduler
from router.scheduler.config import SchedulerConfig
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.planner import Planner
from router.scheduler.policies.laps_paper import LapsPaper
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.row import Row

MIN_CHANGE_SECONDS = 2.0
"""Minimum number of seconds between two changes."""
REMEMBERED, MIN_SAMPLES = 200, 10
"""Maximum number of service times that are remembered, and minimum number for a change."""
QUEUE_COUNT = 4

ThresholdRule = Callable[[int, Sequence[float], tuple[float, ...]], tuple[float, ...]]
"""From live requests, service times of ended ones and current thresholds to new thresholds."""


def fitted_thresholds(
    live: int, ended: Sequence[float], current: tuple[float, ...]
) -> tuple[float, ...]:
    """Return K - 1 thresholds: K = 6 - 1.26 log2(live / 10), from 2 to 8; each is doubled."""
    levels = round(min(8.0, max(2.0, 6 - 1.26 * log2(max(1, live) / 10))))
    return tuple(current[0] * 2.0**level for level in range(levels - 1))


def quantile_thresholds(
    live: int, ended: Sequence[float], current: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the thresholds that give each queue an equal share of the work."""
    if len(ended) < MIN_SAMPLES:
        return current
    rising = sorted(ended)
    sums = list(accumulate(rising))
    thresholds = (
        next(time for time, done in zip(rising, sums, strict=True) if done >= part * sums[-1])
        for part in (queue / QUEUE_COUNT for queue in range(1, QUEUE_COUNT))
    )
    return tuple(sorted(set(thresholds)))


THRESHOLD_RULES: dict[str, ThresholdRule] = {
    "paper, K fitted": fitted_thresholds,
    "paper, quantiles": quantile_thresholds,
}
"""Policies of this file by name."""


class AdaptiveQueues(LapsPaper):
    """The published policy with thresholds that change from time to time."""

    def __init__(
        self,
        estimator: Estimator,
        levels: MultilevelQueue,
        config: SchedulerConfig,
        threshold_rule: ThresholdRule,
    ) -> None:
        super().__init__(estimator, levels, config.laps_window, config.laps_deviation)
        self._threshold_rule, self._due = threshold_rule, MIN_CHANGE_SECONDS
        self._live_count, self._thresholds = 0, levels.thresholds
        self._ended = deque[float](maxlen=REMEMBERED)

    def add(self, row: Row, now: float) -> None:
        self._live_count += 1
        super().add(row, now)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        self._live_count -= 1
        self._ended.append(row.device_seconds)
        super().remove(row, end)

    def order(self, now: float) -> Sequence[Row]:
        thresholds = self._threshold_rule(self._live_count, self._ended, self._thresholds)
        if now >= self._due and thresholds != self._thresholds:
            self._due, self._thresholds = now + MIN_CHANGE_SECONDS, thresholds
            self.set_thresholds(thresholds)
        return super().order(now)


def adaptive_queues(
    config: SchedulerConfig, capacity: DeviceCapacity, threshold_rule: ThresholdRule
) -> Scheduler:
    """Return the ordinary planner under such a policy, starting from the queues of `config`.

    Raises ValueError unless `config` has a first threshold.
    """
    if config.laps_first_threshold is None:
        raise ValueError("`laps_first_threshold` is required for adaptive queues")
    estimator = Estimator(capacity, prior_rounds=config.laps_prior)
    levels = MultilevelQueue.geometric(
        QUEUE_COUNT, config.laps_ratio, config.laps_first_threshold, None
    )
    policy = AdaptiveQueues(estimator, levels, config, threshold_rule)
    return Planner(capacity, policy, estimator, adapt=config.laps_drafts == "adaptive")
