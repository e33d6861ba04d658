"""The simulator's device lets a row come back with one Step and run in another."""

from __future__ import annotations

import pytest

from benchmark.simulation.plans import PolicyVariant, Workload
from benchmark.simulation.runs import requests_of
from benchmark.simulation.simulator import simulate
from benchmark.simulation.step_costs import LLAMA_7B
from router.scheduler import build
from router.scheduler.config import SchedulerConfig


@pytest.mark.parametrize("depth", [1, 2])
def test_a_small_pool_with_room_on_the_host_serves_everything(depth: int) -> None:
    arm = PolicyVariant("las", sigma=None)
    requests = requests_of(Workload("chat", 1, count=40, batch=8, costs="7b"), arm)
    longest = max(-(-(r.trace.prompt_tokens + r.trace.max_new) // 16) for r in requests)
    capacity = LLAMA_7B.capacity(2 * longest, 8, depth=depth, host_pages=1000, preemption="swap")
    scheduler = build(SchedulerConfig(scheduler="las"), capacity)
    result = simulate(scheduler, requests, LLAMA_7B, depth)
    assert len(result.served) == 40
    assert result.preemptions["swap"] == scheduler.status().prefetched > 0
    assert result.moved > 0
