"""The dispatcher's loop in virtual time: a scheduler, requests whose answers are known, and costs.

Rule: it decides nothing and reads no clock. It fills the pipeline and then takes whatever comes
first, an arrival or the end of the oldest Step, as the live dispatcher does. It checks what the
shards would check: a row decodes only with all its KV, and enters or leaves as the Batch says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from benchmark.simulation.device import ContractViolation, SimulatedDevice
from benchmark.simulation.step_costs import StepCosts
from benchmark.simulation.traces import Trace
from router.scheduler.api import Job, Outcome, Scheduler


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """A trace that arrives; ids rise with the time of arrival."""

    id: int
    arrival: float
    """Seconds."""
    trace: Trace
    expected: float | None = None
    """What a predictor says of its length, in tokens."""
    tenant: int = 0

    def job(self) -> Job:
        """As the scheduler is told."""
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
    """What a request got; times in seconds."""

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
    """The least of `rising` that `share` of them do not exceed."""
    return rising[max(0, ceil(share * len(rising)) - 1)]


StepObserver = Callable[[Sequence[Outcome], float], None]


def simulate(
    scheduler: Scheduler,
    requests: Sequence[SimulatedRequest],
    costs: StepCosts,
    depth: int = 1,
    on_step: StepObserver | None = None,
) -> SimulatedRun:
    """Serve all `requests`. `watch` sees each Step's outcomes once the scheduler has.

    Raises ContractViolation where the scheduler breaks its contract.
    """
    device, ledger = SimulatedDevice(costs), _Ledger(requests)
    flights: deque[tuple[float, list[Outcome]]] = deque()
    now, at, free = 0.0, 0, 0.0
    while True:
        while len(flights) < depth:
            batch = scheduler.next_batch(now)
            if batch is None:
                break
            outcomes, seconds = device.execute(batch)
            free = max(free, now) + seconds
            flights.append((free, outcomes))
        due = requests[at].arrival if at < len(requests) else inf
        if flights and flights[0][0] <= due:
            now, outcomes = flights.popleft()
            ledger.record(outcomes, now)
            scheduler.complete(outcomes, now)
            if on_step is not None:
                on_step(outcomes, now)
        elif at < len(requests):
            now = due
            device.add_request(requests[at].id, requests[at].trace)
            scheduler.submit(requests[at].job(), now)
            at += 1
        else:
            return ledger.result(device, scheduler.status().preemptions)


class _Ledger:
    """What every request got."""

    def __init__(self, requests: Sequence[SimulatedRequest]) -> None:
        self._served = {request.id: ServedRequest(request) for request in requests}

    def record(self, outcomes: Sequence[Outcome], now: float) -> None:
        """A Step ended `now`."""
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

    def result(self, device: SimulatedDevice, preemptions: Mapping[str, int]) -> SimulatedRun:
        """Everything has ended. Raises ContractViolation if something has not."""
        short = [id for id, s in self._served.items() if s.emitted != s.request.trace.length]
        if short:
            raise ContractViolation(f"the scheduler stopped with requests {short} unfinished")
        served = tuple(self._served.values())
        return SimulatedRun(served, device.steps, device.busy, device.moved, dict(preemptions))
