"""Measures the error of a scheduler's estimated execution times as requests make progress."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from benchmark.simulation.simulator import SimulatedRequest, SimulatedRun
from router.scheduler.api import Outcome, Scheduler

PROGRESS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Fractions of an answer after which the estimate of its request is recorded."""


class EstimateProbe:
    """Records the estimate of every request at each of these fractions."""

    def __init__(self, scheduler: Scheduler, requests: Sequence[SimulatedRequest]) -> None:
        self._scheduler = scheduler
        self._emitted = dict.fromkeys((request.id for request in requests), 0)
        self._due = {r.id: [ceil(p * r.trace.length) for p in PROGRESS] for r in requests}
        self._estimates: dict[int, list[float]] = {request.id: [] for request in requests}

    def on_step(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record the estimates after a Step with these outcomes."""
        for outcome in outcomes:
            emitted = self._emitted[outcome.id] = self._emitted[outcome.id] + outcome.emitted
            due, estimates = self._due[outcome.id], self._estimates[outcome.id]
            while len(estimates) < len(due) and emitted >= due[len(estimates)]:
                status = self._scheduler.request_status(outcome.id, now)
                if status is None:
                    break  # it has ended
                estimates.append(status.device_seconds + status.remaining_seconds)

    def errors(self, result: SimulatedRun) -> tuple[float, ...]:
        """Return the mean of |estimated - true| / true execution time at each fraction."""
        true = {served.request.id: served.device_seconds for served in result.served}
        columns: list[list[float]] = [[] for _ in PROGRESS]
        for id, estimates in self._estimates.items():
            for column, estimate in zip(columns, estimates, strict=False):
                column.append(abs(estimate / true[id] - 1))
        return tuple(sum(column) / max(1, len(column)) for column in columns)
