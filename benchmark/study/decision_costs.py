"""What one decision of the scheduler takes on this machine, by the number of live requests.

Rule: decides what is timed: `next_batch` alone, with 64 rows a Step, and every live request known
and longer than the measurement. The first Steps, which prefill, count little: the median does.
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
"""Those that are figures."""
STEPS = 100


def measure(live: int, policy: str = "laps-sd", speculate: int = 5) -> float:
    """Median seconds of one `next_batch` with `live` requests that each want a long answer."""
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
        begun = time.perf_counter()
        batch = scheduler.next_batch(now)
        seconds.append(time.perf_counter() - begun)
        if batch is None:
            raise RuntimeError("the scheduler stopped with requests live")
        outcomes, took = device.execute(batch)
        now += took
        scheduler.complete(outcomes, now)
    return statistics.median(seconds)
