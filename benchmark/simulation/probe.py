"""How far off a scheduler's estimates of execution times are while requests make progress."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from benchmark.simulation.simulator import SimulatedRequest, SimulatedRun
from router.scheduler.api import Outcome, Scheduler

PROGRESS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Shares of an answer after which its request is looked at."""


class EstimateProbe:
    """Looks at every request when it has emitted its next share."""

    def __init__(self, scheduler: Scheduler, requests: Sequence[SimulatedRequest]) -> None:
        self._scheduler = scheduler
        self._emitted = dict.fromkeys((request.id for request in requests), 0)
        self._due = {r.id: [ceil(p * r.trace.length) for p in PROGRESS] for r in requests}
        self._estimates: dict[int, list[float]] = {request.id: [] for request in requests}

    def on_step(self, outcomes: Sequence[Outcome], now: float) -> None:
        """A Step did `outcomes`."""
        for outcome in outcomes:
            emitted = self._emitted[outcome.id] = self._emitted[outcome.id] + outcome.emitted
            due, seen = self._due[outcome.id], self._estimates[outcome.id]
            while len(seen) < len(due) and emitted >= due[len(seen)]:
                look = self._scheduler.request_status(outcome.id, now)
                if look is None:
                    break  # it has ended
                seen.append(look.device_seconds + look.remaining_seconds)

    def errors(self, result: SimulatedRun) -> tuple[float, ...]:
        """Mean of |estimated - true| / true execution time at each share."""
        true = {served.request.id: served.device_seconds for served in result.served}
        columns: list[list[float]] = [[] for _ in PROGRESS]
        for id, seen in self._estimates.items():
            for column, estimate in zip(columns, seen, strict=False):
                column.append(abs(estimate / true[id] - 1))
        return tuple(sum(column) / max(1, len(column)) for column in columns)
