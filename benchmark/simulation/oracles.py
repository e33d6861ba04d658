"""Clairvoyant schedulers, which know the truth or all of it but the lengths: bounds, not policies.

`srpt` ranks by the true remaining service and preempts at every round. With memory for all requests
a preemption costs nothing, so it is the optimum of mean latency for one row at a time (Schrage,
1968); with little memory it pays for preemptions like every policy. `optimal_mean_latency` is that
optimum by arithmetic, from service times alone.

`all_but_length` knows the true speed of every request and the true distribution of its length given
its prediction, but not the length: it ranks by the Gittins index of that distribution, the minimum
mean latency for one row at a time without knowing more (Gittins, 1989).
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
    """Return the ordinary planner under a clairvoyant policy.

    `tail`: the tail parameter, applied to true sizes. `mean_size`: the mean of these, in seconds.
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
    """Return the ordinary planner under a policy that knows true speeds and `length_index`."""
    known = lru_cache(None)(length_index)

    def work(row: Row) -> float:
        """Seconds of work per completed answer: its tokens at the request's own speed."""
        accepted = truth[row.job.id].accepted
        speed = min(
            costs.seconds(StepWork(1, draft, draft, row.known_tokens))
            / sum(accepted**k for k in range(draft + 1))
            for draft in _draft_lengths(row, adapt)
        )
        return _prefill_seconds(row, costs) + known(row.job).after(row.emitted) * speed

    return _ranked_planner(capacity, work, adapt)


def _ranked_planner(
    capacity: DeviceCapacity, size: Callable[[Row], float], adapt: bool
) -> Scheduler:
    policy = SizeRanked(MultilevelQueue((), None), size)
    return Planner(capacity, policy, Estimator(capacity), adapt=adapt)


def _remaining_service(
    truth: Mapping[int, Trace], costs: StepCosts, adapt: bool
) -> Callable[[Row], float]:
    """Return the true remaining seconds of a row, at the best constant draft length."""
    rounds_left = lru_cache(4096)(remaining_rounds)

    def seconds(row: Row) -> float:
        trace = truth[row.job.id]
        context = row.known_tokens + (trace.length - row.emitted) // 2
        decode = min(
            rounds_left(trace, draft)[row.emitted]
            * costs.seconds(StepWork(1, draft, draft, context))
            for draft in _draft_lengths(row, adapt)
        )
        return decode + _prefill_seconds(row, costs)

    return seconds


def _draft_lengths(row: Row, adapt: bool) -> range:
    """Return the draft lengths that a row may have."""
    return range(0 if adapt else row.max_draft, row.max_draft + 1)


def _prefill_seconds(row: Row, costs: StepCosts) -> float:
    return (
        costs.seconds(StepWork(prefill=row.unprefilled, prefilling=1)) if row.unprefilled else 0.0
    )


def optimal_mean_latency(jobs: Iterable[tuple[float, float]]) -> float:
    """Return the minimum mean latency in seconds of (arrival, service) pairs on one server."""
    arriving = sorted(jobs)
    waiting: list[tuple[float, float]] = []
    now, total = 0.0, 0.0
    for (arrived, service), (due, _) in pairwise([*arriving, (inf, 0.0)]):
        now = max(now, arrived)
        heapq.heappush(waiting, (service, arrived))
        while waiting and now < due:
            left, start = heapq.heappop(waiting)
            if now + left > due:
                heapq.heappush(waiting, (left - (due - now), start))
                now = due
            else:
                now += left
                total += now - start
    return total / len(arriving)
