"""A tenant next to one that sends ten times as much, in virtual time.

Both send chat requests as Poisson processes to one simulated server with the recorded costs of the
demo pair. Decides the load only: the shipped scheduler decides the order.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from benchmark.simulation.simulator import SimulatedRequest, SimulatedRun, simulate
from benchmark.simulation.step_costs import load
from benchmark.simulation.workloads import SHAPES, burst, poisson, traces
from router.scheduler import build
from router.scheduler.config import SchedulerConfig

FLOOD = 10
SHARE = 0.1
"""Load of a tenant that does not flood, as a fraction of what the server can serve."""
REQUESTS = 100
"""Of that tenant."""
ROWS, PAGES = 8, 2000
FAIRNESS = 10.0
"""--laps-fairness"""
QUIET, OTHER = 1, 2
"""Ids of the tenants."""


def flooded_ttft(fairness: float = FAIRNESS) -> float:
    """Median time to the first token next to a flood, relative to next to an equal tenant."""
    rate = SHARE * saturation()
    return quiet_ttft(rate, FLOOD, fairness) / quiet_ttft(rate, 1, fairness)


def saturation() -> float:
    """Requests per second that the server can serve."""
    requests = burst(traces(SHAPES["chat"], 10 * REQUESTS, seed=1), None)
    served = _serve(requests, 0.0)
    return len(requests) / served.busy


def quiet_ttft(rate: float, factor: int, fairness: float) -> float:
    """Median seconds to the first token of one tenant; the other sends `factor` times as much."""
    quiet = poisson(traces(SHAPES["chat"], REQUESTS, seed=1), None, rate, seed=1)
    other = poisson(traces(SHAPES["chat"], factor * REQUESTS, seed=2), None, factor * rate, seed=2)
    both = [replace(each, tenant=QUIET) for each in quiet]
    both += [replace(each, tenant=OTHER) for each in other]
    both.sort(key=lambda request: request.arrival)
    run = _serve([replace(each, id=id) for id, each in enumerate(both, 1)], fairness)
    return median(
        served.first_token - served.request.arrival
        for served in run.served
        if served.request.tenant == QUIET
    )


def _serve(requests: list[SimulatedRequest], fairness: float) -> SimulatedRun:
    costs = load()
    config = SchedulerConfig(laps_fairness=fairness)
    return simulate(build(config, costs.capacity(PAGES, ROWS)), requests, costs)
