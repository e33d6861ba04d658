"""Orders for somebody who knows the truth, or all of it but one thing: bounds, not policies to use.

`srpt` ranks by the true remaining service and preempts at every round. With memory for all it
switches for nothing, which makes it the clairvoyant optimum of mean latency for one row at a time
(Schrage, 1968); with little memory it pays for its switches as everybody does. `least_mean` is that
optimum by arithmetic, from service times alone.

`informed` knows the true speed of every request and the true law of its length given what was
predicted, but not the length: it ranks by Gittins' index of that law, the least mean latency that
one row at a time can have without knowing more (Gittins, 1989).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from math import inf

from benchmark.simulation.laws import Work as Index
from benchmark.simulation.step_costs import StepCosts, Work
from benchmark.simulation.traces import Trace, rounds
from router.scheduler.api import Capacity, Job, Scheduler
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.planner import Planner
from router.scheduler.policies.baselines import Ranked
from router.scheduler.policies.multilevel_queue import Levels
from router.scheduler.policies.tail_boost import boosted
from router.scheduler.row import Row


def srpt(
    capacity: Capacity,
    truth: Mapping[int, Trace],
    costs: StepCosts,
    *,
    adapt: bool,
    tail: float = 0.0,
    usual: float = 1.0,
) -> Scheduler:
    """The ordinary planner under a clairvoyant policy.

    `tail`: the tail knob, turned for somebody who knows true sizes; `usual`: the mean of those.
    """
    remaining = _remaining(truth, costs, adapt)
    if not tail:
        return _ranked(capacity, remaining, adapt)

    def moment(row: Row) -> float:
        return boosted(row.job.arrived, remaining(row), tail, usual)

    return _ranked(capacity, moment, adapt)


def informed(
    capacity: Capacity,
    truth: Mapping[int, Trace],
    costs: StepCosts,
    law: Callable[[Job], Index],
    *,
    adapt: bool,
) -> Scheduler:
    """The ordinary planner under somebody who knows speeds, and lengths by their `law` alone."""
    known = lru_cache(None)(law)

    def work(row: Row) -> float:
        """Seconds of work per ended answer: its tokens at the request's own speed."""
        share = truth[row.job.id].accepted
        speed = min(
            costs.seconds(Work(1, draft, draft, row.known))
            / sum(share**k for k in range(draft + 1))
            for draft in _drafts(row, adapt)
        )
        return _prefill(row, costs) + known(row.job).after(row.emitted) * speed

    return _ranked(capacity, work, adapt)


def _ranked(capacity: Capacity, size: Callable[[Row], float], adapt: bool) -> Scheduler:
    policy = Ranked(Levels((), None, 1.0), size)
    return Planner(capacity, policy, Estimator(capacity), adapt=adapt)


def _remaining(truth: Mapping[int, Trace], costs: StepCosts, adapt: bool) -> Callable[[Row], float]:
    """True seconds of service left, at the draft length that is the best from here on."""
    course = lru_cache(4096)(rounds)

    def seconds(row: Row) -> float:
        trace = truth[row.job.id]
        context = row.known + (trace.length - row.emitted) // 2
        decode = min(
            course(trace, draft)[row.emitted] * costs.seconds(Work(1, draft, draft, context))
            for draft in _drafts(row, adapt)
        )
        return decode + _prefill(row, costs)

    return seconds


def _drafts(row: Row, adapt: bool) -> range:
    """Draft lengths that it may have."""
    return range(0 if adapt else row.draft_cap, row.draft_cap + 1)


def _prefill(row: Row, costs: StepCosts) -> float:
    return costs.seconds(Work(prefill=row.unfed, prefilling=1)) if row.unfed else 0.0


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
