"""Shortest remaining processing time for somebody who knows the truth: bounds, not policies to use.

`Srpt` ranks by the true remaining service and preempts at every round. With memory for all it
switches for nothing, which makes it the clairvoyant optimum of mean latency for one row at a time
(Schrage, 1968); with little memory it pays for its switches as everybody does. `least_mean` is that
optimum by arithmetic, from service times alone.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

from benchmark.simulation.step_costs import StepCosts, Work
from benchmark.simulation.traces import Trace, rounds
from router.scheduler.base import Capacity, End, Outcome
from router.scheduler.row import Row

Key = tuple[float, float, int]
"""Remaining seconds, arrival, id."""


class Srpt:
    """A Policy that knows the traces by the ids of their jobs."""

    levels = 1
    perceptible = 0

    def __init__(self, truth: Mapping[int, Trace], costs: StepCosts, capacity: Capacity) -> None:
        self._truth, self._costs = truth, costs
        self._most = capacity.speculate
        self._rounds: dict[tuple[int, int], list[int]] = {}
        self._keys: dict[int, Key] = {}
        self._order: list[Key] = []
        self._rows: dict[int, Row] = {}

    def level(self, row: Row) -> int:
        return 1

    def arrive(self, row: Row, now: float) -> None:
        self._rows[row.job.id] = row
        self._place(row)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._take_out(row)
        self._place(row)

    def leave(self, row: Row, end: End | None) -> None:
        self._take_out(row)
        id = row.job.id
        del self._rows[id]
        for draft in range(self._most + 1):
            self._rounds.pop((id, draft), None)

    def order(self, now: float) -> Sequence[Row]:
        return [self._rows[id] for _, _, id in self._order]

    def _place(self, row: Row) -> None:
        key = self._keys[row.job.id] = (self._remaining(row), row.job.arrived, row.job.id)
        insort(self._order, key)

    def _take_out(self, row: Row) -> None:
        del self._order[bisect_left(self._order, self._keys.pop(row.job.id))]

    def _remaining(self, row: Row) -> float:
        """True seconds of service left, if it went on drafting as it did last."""
        trace, draft = self._truth[row.job.id], row.draft
        table = self._rounds.get((row.job.id, draft))
        if table is None:
            table = self._rounds[row.job.id, draft] = rounds(trace, draft)
        context = row.known + (trace.length - row.emitted) // 2
        each = self._costs.seconds(Work(1, draft, draft, context))
        prefill = self._costs.seconds(Work(prefill=row.unfed, prefilling=1)) if row.unfed else 0.0
        return table[row.emitted] * each + prefill


def least_mean(jobs: Iterable[tuple[float, float]]) -> float:
    """Least possible mean latency of (arrival, service) pairs on one preemptive server."""
    arriving = sorted(jobs)
    waiting: list[tuple[float, float]] = []
    now, total = 0.0, 0.0
    for at, upto in zip(range(len(arriving)), [a for a, _ in arriving[1:]] + [float("inf")]):
        arrived, service = arriving[at]
        now = max(now, arrived)
        heapq.heappush(waiting, (service, arrived))
        while waiting and now < upto:
            left, since = heapq.heappop(waiting)
            if now + left > upto:
                heapq.heappush(waiting, (left - (upto - now), since))
                now = upto
            else:
                now += left
                total += now - since
    return total / len(arriving)
