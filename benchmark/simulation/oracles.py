"""Orders for somebody who knows the truth, or all of it but one thing: bounds, not policies to use.

`srpt` ranks by the true remaining service and preempts at every round. With memory for all it
switches for nothing, which makes it the clairvoyant optimum of mean latency for one row at a time
(Schrage, 1968); with little memory it pays for its switches as everybody does.
`optimal_mean_latency` is that optimum by arithmetic, from service times alone.

`all_but_length` knows the true speed of every request and the true law of its length given what was
predicted, but not the length: it ranks by Gittins' index of that law, the least mean latency that
one row at a time can have without knowing more (Gittins, 1989).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from math import inf

from benchmark.simulation.laws import GittinsIndex as Index
from benchmark.simulation.step_costs import StepCosts, StepWork
from benchmark.simulation.traces import Trace, remaining_rounds
from router.scheduler.api import DeviceCapacity, Job, Scheduler
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.planner import Planner
from router.scheduler.policies.baselines import SizeRanked
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.policies.tail_boost import boosted_arrival
from router.scheduler.row import Row


def srpt(
    capacity: DeviceCapacity,
    truth: Mapping[int, Trace],
    costs: StepCosts,
    *,
    adapt: bool,
    tail: float = 0.0,
    mean_size: float = 1.0,
) -> Scheduler:
    """The ordinary planner under a clairvoyant policy.

    `tail`: the tail knob, turned for somebody who knows true sizes; `usual`: the mean of those.
    """
    remaining = _remaining_service(truth, costs, adapt)
    if not tail:
        return _ranked_planner(capacity, remaining, adapt)

    def moment(row: Row) -> float:
        return boosted_arrival(row.job.arrived, remaining(row), tail, mean_size)

    return _ranked_planner(capacity, moment, adapt)


def all_but_length(
    capacity: DeviceCapacity,
    truth: Mapping[int, Trace],
    costs: StepCosts,
    length_index: Callable[[Job], Index],
    *,
    adapt: bool,
) -> Scheduler:
    """The ordinary planner under somebody who knows speeds, and lengths by their `law` alone."""
    known = lru_cache(None)(length_index)

    def work(row: Row) -> float:
        """Seconds of work per ended answer: its tokens at the request's own speed."""
        share = truth[row.job.id].accepted
        speed = min(
            costs.seconds(StepWork(1, draft, draft, row.known_tokens))
            / sum(share**k for k in range(draft + 1))
            for draft in _draft_lengths(row, adapt)
        )
        return _prefill_seconds(row, costs) + known(row.job).after(row.emitted) * speed

    return _ranked_planner(capacity, work, adapt)


def _ranked_planner(
    capacity: DeviceCapacity, size: Callable[[Row], float], adapt: bool
) -> Scheduler:
    policy = SizeRanked(MultilevelQueue((), None, 1.0), size)
    return Planner(capacity, policy, Estimator(capacity), adapt=adapt)


def _remaining_service(
    truth: Mapping[int, Trace], costs: StepCosts, adapt: bool
) -> Callable[[Row], float]:
    """True seconds of service left, at the draft length that is the best from here on."""
    course = lru_cache(4096)(remaining_rounds)

    def seconds(row: Row) -> float:
        trace = truth[row.job.id]
        context = row.known_tokens + (trace.length - row.emitted) // 2
        decode = min(
            course(trace, draft)[row.emitted] * costs.seconds(StepWork(1, draft, draft, context))
            for draft in _draft_lengths(row, adapt)
        )
        return decode + _prefill_seconds(row, costs)

    return seconds


def _draft_lengths(row: Row, adapt: bool) -> range:
    """Draft lengths that it may have."""
    return range(0 if adapt else row.max_draft, row.max_draft + 1)


def _prefill_seconds(row: Row, costs: StepCosts) -> float:
    return (
        costs.seconds(StepWork(prefill=row.unprefilled, prefilling=1)) if row.unprefilled else 0.0
    )


def optimal_mean_latency(jobs: Iterable[tuple[float, float]]) -> float:
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
