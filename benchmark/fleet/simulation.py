"""A fleet in virtual time: replicas with the shipped scheduler, and gateways that choose one.

Decides which event is next, and nothing about requests: a policy chooses the replica. A gateway
knows what the replicas reported last, at most `report_seconds` ago, and what it has sent itself; of
the other gateways it knows nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from statistics import fmean

from benchmark.fleet.policies import Arrival, Chooser, ReplicaView
from benchmark.fleet.requests import PAGE_SIZE, PREFIX_TOKENS, FleetRequest, draw
from benchmark.simulation.device import VirtualDevice
from benchmark.simulation.server import VirtualServer
from benchmark.simulation.simulator import quantile
from benchmark.simulation.step_costs import LLAMA_7B
from benchmark.simulation.traces import TracedAnswer
from router.scheduler import build
from router.scheduler.api import Outcome
from router.scheduler.config import SchedulerConfig

ROWS, DEPTH = 4, 2
"""Rows and Steps in flight of a replica."""
ROW_TOKENS = 3000
"""KV memory of a replica, per row: that of a few requests, so that prefixes stay cached."""
WARM_UP = 0.2
"""Share of the requests that arrive before the fleet is in its steady state; not counted."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is simulated."""

    replicas: int
    policy: str
    gateways: int = 1
    report_seconds: float = 0.1
    """Time between two reports of a replica."""
    rho: float = 0.9
    """Arrival rate relative to the rate at which one replica answers a burst, for each replica."""
    requests_per_replica: int = 40
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FleetResult:
    """Results; times in seconds."""

    fleet: Fleet
    mean: float
    p50: float
    p99: float
    first_token: float
    """Mean time to the first token."""
    prefill: float
    """Computed share of the prompt tokens; the rest was cached."""
    spread: float
    """Largest over mean number of requests of a replica."""


def run(fleet: Fleet) -> FleetResult:
    """Simulate a fleet until every request is answered."""
    count = fleet.replicas * fleet.requests_per_replica
    rate = fleet.rho * fleet.replicas * saturation_rate()
    simulation = _Simulation(fleet, draw(count, rate, fleet.seed))
    simulation.run()
    return simulation.result()


@cache
def saturation_rate(count: int = 120) -> float:
    """Return the requests per second that leave one busy replica, if `count` arrive at once.

    Those in progress at the end count as half.
    """
    alone = _Simulation(Fleet(1, "round robin"), draw(count, 1e9, seed=0))
    alone.run()
    finished = sorted(alone.finished.values())
    left = ROWS - 1
    return (count - left / 2) / finished[count - left - 1]


def replica() -> VirtualServer:
    """Return an idle replica with the default scheduler and the assumed costs of a 7B model."""
    capacity = LLAMA_7B.capacity(ROWS * ROW_TOKENS // PAGE_SIZE, ROWS, depth=DEPTH)
    scheduler = build(SchedulerConfig(laps_drafts="longest"), capacity)
    return VirtualServer(scheduler, VirtualDevice(LLAMA_7B.seconds), DEPTH)


class _Gateway:
    """Views of all replicas, and the policy."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.views = [ReplicaView(ROWS) for _ in range(fleet.replicas)]
        self._chooser = Chooser(fleet.policy, number * fleet.replicas // fleet.gateways)

    def choose(self, request: FleetRequest, mean_seconds: float) -> int:
        """Return the replica that gets `request`, which is expected to need `mean_seconds`."""
        prefix_seconds = LLAMA_7B.prefill * PREFIX_TOKENS
        index = self._chooser.choose(self.views, Arrival(request.prefix, prefix_seconds))
        self.views[index].sent(request.prefix, mean_seconds)
        return index


class _Simulation:
    """The event loop, and the record of every request."""

    def __init__(self, fleet: Fleet, requests: Sequence[FleetRequest]) -> None:
        self._fleet, self._requests = fleet, requests
        self._replicas = [replica() for _ in range(fleet.replicas)]
        self._gateways = [_Gateway(fleet, number) for number in range(fleet.gateways)]
        self._ends: list[tuple[float, int]] = []
        """End of the oldest Step in flight of each busy replica."""
        self._next_report = 0.0
        self._mean_seconds = 0.0
        """Mean device seconds that a live request still needed at the last report."""
        self._live = [0] * fleet.replicas
        self._sent = [0] * fleet.replicas
        self._prefilled = 0
        self._first: dict[int, float] = {}
        self.finished: dict[int, float] = {}

    def run(self) -> None:
        """Handle arrivals and ends of Steps in order of time."""
        for request in self._requests:
            self._advance(request.arrival)
            self._arrive(request, self._gateways[request.id % len(self._gateways)])
        self._advance(inf)

    def _advance(self, until: float) -> None:
        while self._ends and self._ends[0][0] <= until:
            _, index = heapq.heappop(self._ends)
            now, outcomes = self._replicas[index].finish()
            for outcome in outcomes:
                self._record(index, outcome, now)
            self._fill(index, now, waiting=False)

    def _arrive(self, request: FleetRequest, gateway: _Gateway) -> None:
        now = request.arrival
        if now >= self._next_report:
            self._report()
            self._next_report = now + self._fleet.report_seconds
        index = gateway.choose(request, self._mean_seconds)
        busy = self._replicas[index].next_end < inf
        self._replicas[index].submit(request.job(), TracedAnswer(request.trace), now)
        self._live[index] += 1
        self._sent[index] += 1
        self._fill(index, now, waiting=busy)

    def _fill(self, index: int, now: float, *, waiting: bool) -> None:
        """Send what a replica can; `waiting`: the end of its oldest Step is already known."""
        for _ in self._replicas[index].fill(now):
            pass
        end = self._replicas[index].next_end
        if end < inf and not waiting:
            heapq.heappush(self._ends, (end, index))

    def _report(self) -> None:
        """Tell every gateway the state of every replica."""
        each = [server.scheduler.seconds_per_end() for server in self._replicas]
        works = [seconds * live for seconds, live in zip(each, self._live, strict=True)]
        if live := sum(self._live):
            self._mean_seconds = sum(works) / live
        for gateway in self._gateways:
            for view, count, work in zip(gateway.views, self._live, works, strict=True):
                view.report(count, work)

    def _record(self, index: int, outcome: Outcome, now: float) -> None:
        self._prefilled += outcome.prefilled
        if outcome.emitted:
            self._first.setdefault(outcome.id, now)
        if outcome.end is not None:
            self.finished[outcome.id] = now
            self._live[index] -= 1

    def result(self) -> FleetResult:
        """Return the results without those of the warm-up."""
        counted = self._requests[round(WARM_UP * len(self._requests)) :]
        latencies = sorted(self.finished[r.id] - r.arrival for r in counted)
        prompts = sum(PREFIX_TOKENS + r.trace.prompt_tokens for r in self._requests)
        return FleetResult(
            fleet=self._fleet,
            mean=fmean(latencies),
            p50=quantile(latencies, 0.5),
            p99=quantile(latencies, 0.99),
            first_token=fmean(self._first[r.id] - r.arrival for r in counted),
            prefill=self._prefilled / prompts,
            spread=max(self._sent) / fmean(self._sent),
        )
