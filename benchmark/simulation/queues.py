"""The published algorithm with queues that follow the load, to be compared with fixed ones.

`fitted` takes the number of queues from the number of live requests by a line through the paper's
two best ones, six at 10 requests and four at 30. `quantiles` keeps four queues and cuts them so
that each gets an equal share of the work that recently ended requests took.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import log2

from router.config import SchedulerConfig
from router.scheduler.api import Capacity, End, Scheduler
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.planner import Planner
from router.scheduler.policies.laps_paper import Paper
from router.scheduler.policies.multilevel_queue import Levels
from router.scheduler.row import Row

EVERY = 2.0
"""Seconds between two changes, at least."""
ENDED, ENOUGH = 200, 10
"""Service times that are remembered, and without which nothing is changed."""
QUEUES = 4

Cut = Callable[[int, Sequence[float], tuple[float, ...]], tuple[float, ...]]
"""Live requests, service times of ended ones, and thresholds in seconds; new thresholds."""


def fitted(live: int, ended: Sequence[float], now: tuple[float, ...]) -> tuple[float, ...]:
    """K = 6 - 1.26 log2(live / 10), 2 to 8; the first threshold stays, and each doubles."""
    levels = round(min(8.0, max(2.0, 6 - 1.26 * log2(max(1, live) / 10))))
    return tuple(now[0] * 2.0**level for level in range(levels - 1))


def quantiles(live: int, ended: Sequence[float], now: tuple[float, ...]) -> tuple[float, ...]:
    """Equal shares of work for each queue."""
    if len(ended) < ENOUGH:
        return now
    rising = sorted(ended)
    sums = list(accumulate(rising))
    found = (
        next(time for time, done in zip(rising, sums, strict=True) if done >= part * sums[-1])
        for part in (queue / QUEUES for queue in range(1, QUEUES))
    )
    return tuple(sorted(set(found)))


CUTS: dict[str, Cut] = {"paper, K fitted": fitted, "paper, quantiles": quantiles}
"""Policies of this file by name."""


class Following(Paper):
    """The published policy, with queues cut anew from time to time."""

    def __init__(
        self, estimator: Estimator, levels: Levels, config: SchedulerConfig, cut: Cut
    ) -> None:
        super().__init__(estimator, levels, config.laps_window, config.laps_deviation)
        self._cut, self._due = cut, EVERY
        self._live, self._thresholds = 0, levels.thresholds
        self._ended = deque[float](maxlen=ENDED)

    def arrive(self, row: Row, now: float) -> None:
        self._live += 1
        super().arrive(row, now)

    def leave(self, row: Row, end: End | None) -> None:
        self._live -= 1
        self._ended.append(row.attained)
        super().leave(row, end)

    def order(self, now: float, used: float) -> Sequence[Row]:
        thresholds = self._cut(self._live, self._ended, self._thresholds)
        if now >= self._due and thresholds != self._thresholds:
            self._due, self._thresholds = now + EVERY, thresholds
            self.recut(thresholds)
        return super().order(now, used)


def following(config: SchedulerConfig, capacity: Capacity, cut: Cut) -> Scheduler:
    """The ordinary planner under such a policy, which begins with `config`'s queues.

    Raises ValueError unless `config` says what Sup_1 is.
    """
    if config.laps_first_threshold is None:
        raise ValueError("queues that follow the load begin with a given Sup_1")
    estimator = Estimator(capacity, prior=config.laps_prior)
    levels = Levels.geometric(QUEUES, config.laps_ratio, config.laps_first_threshold, None)
    policy = Following(estimator, levels, config, cut)
    return Planner(capacity, policy, estimator, adapt=config.laps_drafts == "adaptive")
