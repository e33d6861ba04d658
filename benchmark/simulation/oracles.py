"""Shortest remaining processing time for somebody who knows the truth: bounds, not policies to use.

`Srpt` ranks by the true remaining service and preempts at every round. With memory for all it
switches for nothing, which makes it the clairvoyant optimum of mean latency for one row at a time
(Schrage, 1968); with little memory it pays for its switches as everybody does. `least_mean` is that
optimum by arithmetic, from service times alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from math import inf

from benchmark.simulation.step_costs import StepCosts, Work
from benchmark.simulation.traces import Trace, rounds
from router.scheduler.base import Capacity, Scheduler
from router.scheduler.baselines import Ranked
from router.scheduler.estimate import Estimator
from router.scheduler.levels import Levels, Rank
from router.scheduler.planner import Planner
from router.scheduler.row import Row


class Srpt(Ranked):
    """A Policy that knows the traces by the ids of their jobs."""

    def __init__(self, estimator: Estimator, truth: Mapping[int, Trace], costs: StepCosts) -> None:
        super().__init__(Levels((), None, 1.0), estimator)
        self._truth, self._costs = truth, costs
        self._rounds = lru_cache(4096)(rounds)

    def _rank(self, row: Row) -> Rank:
        """True seconds of service left, if the row went on drafting as it did last."""
        trace, draft = self._truth[row.job.id], row.draft
        context = row.known + (trace.length - row.emitted) // 2
        each = self._costs.seconds(Work(1, draft, draft, context))
        prefill = self._costs.seconds(Work(prefill=row.unfed, prefilling=1)) if row.unfed else 0.0
        return (self._rounds(trace, draft)[row.emitted] * each + prefill,)


def srpt(capacity: Capacity, truth: Mapping[int, Trace], costs: StepCosts) -> Scheduler:
    """The ordinary planner under a clairvoyant policy."""
    estimator = Estimator(capacity)
    return Planner(capacity, Srpt(estimator, truth, costs), estimator)


def least_mean(jobs: Iterable[tuple[float, float]]) -> float:
    """Least possible mean latency of (arrival, service) pairs on one preemptive server, seconds."""
    arriving = sorted(jobs)
    waiting: list[tuple[float, float]] = []
    now, total = 0.0, 0.0
    for (arrived, service), (due, _) in pairwise([*arriving, (inf, 0.0)]):
        now = max(now, arrived)
        heapq.heappush(waiting, (service, arrived))
        while waiting and now < due:
            left, since = heapq.heappop(waiting)
            if now + left > due:
                heapq.heappush(waiting, (left - (due - now), since))
                now = due
            else:
                now += left
                total += now - since
    return total / len(arriving)
