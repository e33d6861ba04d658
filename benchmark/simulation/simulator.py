"""The dispatcher's loop in virtual time: a scheduler, requests with known answers, and costs.

Decides nothing and reads no clock. It fills the pipeline and then handles the next event, an
arrival or the end of the oldest Step, as the live dispatcher does. The tests of the scheduler run
the same loop with a device that checks every Batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

from benchmark.simulation.device import Answer, ContractViolation, VirtualDevice
from benchmark.simulation.server import VirtualServer
from benchmark.simulation.step_costs import StepCosts
from benchmark.simulation.traces import Trace, TracedAnswer
from router.scheduler.api import Job, Outcome, ScheduledBatch, Scheduler


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """A trace with its arrival; ids rise with the time of arrival."""

    id: int
    arrival: float
    """Seconds."""
    trace: Trace
    expected: float | None = None
    """Predicted length in tokens."""
    tenant: int = 0

    def job(self) -> Job:
        """Return the request as the scheduler sees it."""
        trace = self.trace
        return Job(
            self.id,
            self.arrival,
            trace.prompt_tokens,
            trace.max_new,
            self.expected,
            tenant=self.tenant,
        )


@dataclass(slots=True)
class ServedRequest:
    """The service of one request; times in seconds."""

    request: SimulatedRequest
    first_token: float = 0.0
    finished: float = 0.0
    device_seconds: float = 0.0
    """Its share of device time."""
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def latency(self) -> float:
        """From arrival to the last token."""
        return self.finished - self.request.arrival

    @property
    def slowdown(self) -> float:
        """Latency over its own share of device time."""
        return self.latency / self.device_seconds


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A whole run."""

    served: tuple[ServedRequest, ...]
    """By arrival."""
    steps: int
    busy: float
    """Device seconds."""
    moved: int
    """Tokens copied to the host or back."""
    preemptions: Mapping[str, int]

    @property
    def latencies(self) -> list[float]:
        """Seconds, by arrival."""
        return [s.latency for s in self.served]

    @property
    def mean(self) -> float:
        """Mean latency in seconds."""
        return sum(self.latencies) / len(self.served)


def quantile(rising: Sequence[float], share: float) -> float:
    """Return the least of the sorted values that a fraction `share` of them do not exceed."""
    return rising[max(0, ceil(share * len(rising)) - 1)]


class Planned(NamedTuple):
    """A Batch was sent to the device."""

    now: float
    batch: ScheduledBatch


class Completed(NamedTuple):
    """The oldest Step in flight is done, and the scheduler has its outcomes."""

    now: float
    outcomes: Sequence[Outcome]


def drive(
    scheduler: Scheduler,
    device: VirtualDevice,
    arrivals: Sequence[tuple[Job, Answer]],
    depth: int,
) -> Iterator[Planned | Completed]:
    """Serve requests that arrive in this order, until nothing is left to do.

    `depth`: maximum number of Steps in flight. Times are virtual, in seconds from 0.
    """
    server, waiting, now = VirtualServer(scheduler, device, depth), deque(arrivals), 0.0
    while True:
        for batch in server.fill(now):
            yield Planned(now, batch)
        arrival = waiting[0][0].arrived if waiting else inf
        if server.next_end < inf and server.next_end <= arrival:
            now, outcomes = server.finish()
            yield Completed(now, outcomes)
        elif waiting:
            job, answer = waiting.popleft()
            now = max(now, job.arrived)
            server.submit(job, answer, now)
        else:
            return


StepObserver = Callable[[Sequence[Outcome], float], None]


def simulate(
    scheduler: Scheduler,
    requests: Sequence[SimulatedRequest],
    costs: StepCosts,
    depth: int = 1,
    on_step: StepObserver | None = None,
) -> SimulatedRun:
    """Serve all `requests`. `on_step` gets each Step's outcomes after the scheduler got them.

    Raises ContractViolation where the scheduler breaks its contract.
    """
    device, ledger = VirtualDevice(costs.seconds), _Ledger(requests)
    arrivals = [(request.job(), TracedAnswer(request.trace)) for request in requests]
    for event in drive(scheduler, device, arrivals, depth):
        if isinstance(event, Completed):
            ledger.record(event.outcomes, event.now)
            if on_step is not None:
                on_step(event.outcomes, event.now)
    return ledger.result(device, scheduler.status().preemptions)


class _Ledger:
    """Records the service of every request."""

    def __init__(self, requests: Sequence[SimulatedRequest]) -> None:
        self._served = {request.id: ServedRequest(request) for request in requests}

    def record(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record a Step that ended `now`."""
        for outcome in outcomes:
            served = self._served[outcome.id]
            served.device_seconds += outcome.seconds
            served.emitted += outcome.emitted
            served.drafted += outcome.drafted
            served.accepted += outcome.accepted
            if outcome.emitted and not served.first_token:
                served.first_token = now
            if outcome.end is not None:
                served.finished = now

    def result(self, device: VirtualDevice, preemptions: Mapping[str, int]) -> SimulatedRun:
        """Return the whole run. Raises ContractViolation if a request has not ended."""
        short = [id for id, s in self._served.items() if s.emitted != s.request.trace.length]
        if short:
            raise ContractViolation(f"the scheduler stopped with requests {short} unfinished")
        served = tuple(self._served.values())
        return SimulatedRun(
            served, device.step_count, device.busy_seconds, device.moved_tokens, dict(preemptions)
        )
