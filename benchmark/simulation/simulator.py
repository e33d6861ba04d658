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

from benchmark.simulation.step_costs import StepCosts, Work
from benchmark.simulation.traces import Trace, runs
from router.scheduler.base import Batch, End, Job, Outcome, Scheduler

ORDINARY = 2
"""Missed tokens that a draft takes in at no extra cost."""


@dataclass(frozen=True, slots=True)
class Request:
    """A trace that arrives; ids rise with the time of arrival."""

    id: int
    at: float
    """Seconds."""
    trace: Trace
    expected: float | None = None
    """What a predictor says of its length, in tokens."""

    def job(self) -> Job:
        """As the scheduler is told."""
        return Job(self.id, self.at, self.trace.prompt, self.trace.max_new, self.expected)


@dataclass(slots=True)
class Served:
    """What a request got; times in seconds."""

    request: Request
    first_token: float = 0.0
    finished: float = 0.0
    attained: float = 0.0
    """Its share of device time."""
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def latency(self) -> float:
        """From arrival to the last token."""
        return self.finished - self.request.at


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run."""

    served: tuple[Served, ...]
    """By arrival."""
    steps: int
    busy: float
    """Device seconds."""
    moved: int
    """Tokens copied to the host or back."""
    preemptions: Mapping[str, int]

    @property
    def elapsed(self) -> float:
        """Seconds from the first arrival to the last token."""
        return max(s.finished for s in self.served) - self.served[0].request.at

    @property
    def latencies(self) -> list[float]:
        """Seconds, by arrival."""
        return [s.latency for s in self.served]

    @property
    def mean(self) -> float:
        """Mean latency in seconds."""
        return sum(self.latencies) / len(self.served)

    def quantile(self, share: float) -> float:
        """The latency that `share` of all requests do not exceed."""
        return sorted(self.latencies)[max(0, ceil(share * len(self.served)) - 1)]


class Broken(RuntimeError):
    """The scheduler asked for what no shard could do, or stopped with work left."""


Watch = Callable[[Sequence[Outcome], float], None]


def simulate(
    scheduler: Scheduler,
    requests: Sequence[Request],
    costs: StepCosts,
    depth: int = 1,
    watch: Watch | None = None,
) -> Result:
    """Serve all `requests`. `watch` sees each Step's outcomes before the scheduler does.

    Raises Broken where the scheduler breaks its contract.
    """
    device, ledger = _Device(costs), _Ledger(requests)
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
        due = requests[at].at if at < len(requests) else inf
        if flights and flights[0][0] <= due:
            now, outcomes = flights.popleft()
            ledger.write(outcomes, now)
            if watch is not None:
                watch(outcomes, now)
            scheduler.complete(outcomes, now)
        elif at < len(requests):
            now = due
            device.expect(requests[at])
            scheduler.submit(requests[at].job(), now)
            at += 1
        else:
            return ledger.result(device, scheduler.view().preemptions)


@dataclass(slots=True, eq=False)
class _Row:
    """A live request on the device. What the device knows runs ahead of the scheduler."""

    ahead: bytes
    length: int
    longest: int
    known: int
    emitted: int = 0
    cached: int = 0
    lag: int = 0
    """Tokens emitted since it last drafted."""


Done = tuple[int, int, int, int, int, End | None]
"""Id, prefilled, drafted, accepted, emitted, end."""


class _Device:
    """Rows and what Steps do to them."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._rows: dict[int, _Row] = {}
        self._held: set[int] = set()
        """Rows in the shards' table."""
        self.steps = self.moved = 0
        self.busy = 0.0

    def expect(self, request: Request) -> None:
        """A request whose answer will be wanted."""
        trace = request.trace
        row = _Row(runs(trace.agrees), trace.length, trace.max_new, trace.prompt)
        self._rows[request.id] = row

    def execute(self, batch: Batch) -> tuple[list[Outcome], float]:
        """Do one Step: what it did for each row that had not ended before, and its seconds."""
        if batch.release or batch.evict or batch.swap_out:
            self._drop(batch)
        moved = self._moved(batch) if batch.swap_out or batch.swap_in else 0
        for id, cached, _ in batch.start:
            self._enter(id, cached)
        rows = drafts = longest = context = prefill = prefilling = missed = 0
        done: list[Done] = []
        for id, chunk, draft in batch.run:
            row = self._rows.get(id)
            if row is None:
                continue  # it ended while this Step was planned
            if id not in self._held:
                self._enter(id, 0)
            if chunk:
                prefill += chunk
                prefilling += 1
                done.append(_feed(row, id, chunk))
            else:
                draft = min(draft, row.longest - row.emitted - 1)
                rows += 1
                drafts += draft
                longest = max(longest, draft)
                context += row.known
                missed += row.lag if draft and row.lag > ORDINARY else 0
                done.append(_round(row, id, draft))
            if done[-1][5] is not None:
                del self._rows[id]
        if not done and not moved:
            return [], 0.0
        work = Work(rows, drafts, longest, context, prefill, prefilling, missed, moved)
        seconds = self._costs.seconds(work)
        self.steps += 1
        self.busy += seconds
        self.moved += moved
        return _outcomes(done, seconds), seconds

    def _enter(self, id: int, cached: int) -> None:
        """A row comes into the table, to run now or once its KV is back."""
        self._held.add(id)
        if id in self._rows:
            self._rows[id].cached = cached

    def _drop(self, batch: Batch) -> None:
        """Rows leave the table; what they held is gone, or on the host."""
        for id in batch.release:
            self._held.discard(id)
        for id in (*batch.evict, *(swap.id for swap in batch.swap_out)):
            self._held.remove(id)

    def _moved(self, batch: Batch) -> int:
        return 16 * sum(len(swap.pages) for swap in (*batch.swap_out, *batch.swap_in))


def _feed(row: _Row, id: int, chunk: int) -> Done:
    """Compute the KV of `chunk` known tokens; after the last known one comes a new one."""
    row.cached += chunk
    if row.cached > row.known:
        raise Broken(f"row {id} has no {row.cached} tokens to prefill")
    if row.cached < row.known:
        return id, chunk, 0, 0, 0, None
    row.lag += 1
    return id, chunk, 0, 0, *_emit(row, 1)


def _round(row: _Row, id: int, draft: int) -> Done:
    """Draft and verify."""
    if row.cached != row.known - 1:
        raise Broken(f"row {id} cannot decode: {row.cached} of {row.known} tokens are cached")
    accepted = min(row.ahead[row.emitted], draft)
    emitted, end = _emit(row, accepted + 1)
    row.lag = 0 if draft else row.lag + emitted
    row.cached = row.known - 1
    return id, 0, draft, min(accepted, emitted), emitted, end


def _emit(row: _Row, most: int) -> tuple[int, End | None]:
    emitted = min(most, row.length - row.emitted)
    row.emitted += emitted
    row.known += emitted
    if row.emitted < row.length:
        return emitted, None
    return emitted, End.EOS if row.length < row.longest else End.LENGTH


def _outcomes(done: Sequence[Done], seconds: float) -> list[Outcome]:
    share = seconds / max(1, len(done))
    return [
        Outcome(id, prefilled, drafted, accepted, emitted, share, end)
        for id, prefilled, drafted, accepted, emitted, end in done
    ]


class _Ledger:
    """What every request got."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._served = {request.id: Served(request) for request in requests}

    def write(self, outcomes: Sequence[Outcome], now: float) -> None:
        """A Step ended `now`."""
        for outcome in outcomes:
            served = self._served[outcome.id]
            served.attained += outcome.seconds
            served.emitted += outcome.emitted
            served.drafted += outcome.drafted
            served.accepted += outcome.accepted
            if outcome.emitted and not served.first_token:
                served.first_token = now
            if outcome.end is not None:
                served.finished = now

    def result(self, device: _Device, preemptions: Mapping[str, int]) -> Result:
        """Everything has ended. Raises Broken if something has not."""
        short = [id for id, s in self._served.items() if s.emitted != s.request.trace.length]
        if short:
            raise Broken(f"the scheduler stopped with requests {short} unfinished")
        served = tuple(self._served.values())
        return Result(served, device.steps, device.busy, device.moved, dict(preemptions))
