"""Time of one decision of the scheduler on this machine, by the number of live requests.

Decides what is measured: `next_batch` alone, with 64 rows per Step, and every live request known
and longer than the measurement. The median excludes the first Steps, which prefill.
"""

from __future__ import annotations

import statistics
import time

from benchmark.simulation import step_costs
from benchmark.simulation.device import VirtualDevice
from benchmark.simulation.simulator import SimulatedRequest
from benchmark.simulation.traces import Trace, TracedAnswer
from router.scheduler import build
from router.scheduler.config import SchedulerConfig

ROWS = 64
SIZES = (16, 64, 256, 1024, 4096, 10_000)
REPORTED_SIZES = (256, 10_000)
"""Sizes that are among the figures."""
STEPS = 100


def measure(live: int, policy: str = "laps-sd", speculate: int = 5) -> float:
    """Return the median seconds of one `next_batch` with `live` requests for long answers."""
    costs = step_costs.load()
    capacity = costs.capacity(live * 20, ROWS, speculate, depth=1)
    scheduler = build(SchedulerConfig(scheduler=policy), capacity)
    device = VirtualDevice(costs.seconds)
    for id in range(1, live + 1):
        request = SimulatedRequest(id, 0.0, Trace("", 32, 256, bytes(255)), 30.0 + id * 37 % 200)
        device.add_request(request.job(), TracedAnswer(request.trace))
        scheduler.submit(request.job(), 0.0)
    now, seconds = 0.0, []
    for _ in range(STEPS):
        start = time.perf_counter()
        batch = scheduler.next_batch(now)
        seconds.append(time.perf_counter() - start)
        if batch is None:
            raise RuntimeError("the scheduler stopped with requests live")
        outcomes, step_seconds = device.execute(batch)
        now += step_seconds
        scheduler.complete(outcomes, now)
    return statistics.median(seconds)
