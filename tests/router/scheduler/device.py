"""A shard group in virtual time that obeys every Batch to the letter and checks each rule it can.

It knows the truth that a scheduler only learns from outcomes: how many drafts are accepted, and
where an answer ends. Assertion messages name the broken rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from router.scheduler.base import Batch, Capacity, End, Job, Outcome, Run, Scheduler


def capacity(**changes: float) -> Capacity:
    """A small device; `changes` replace fields."""
    fields = {
        "pages": 40,
        "page_size": 4,
        "max_rows": 4,
        "prefill_tokens": 16,
        "speculate": 3,
        "draft_token_seconds": 0.01,
        "verify_seconds": 0.1,
    }
    return Capacity(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Client:
    """The router's record of one request."""

    job: Job
    answer: int
    """Tokens after which the answer ends by itself."""
    acceptance: float
    emitted: int = 0
    ends: int = 0
    cancelled: bool = False
    seconds: list[float] = field(default_factory=list)
    """When it was served, or ended."""

    @property
    def live(self) -> bool:
        return not self.ends and not self.cancelled


@dataclass
class Slot:
    """A row on the shards: what it was sent as, and what has truly happened."""

    known: int
    fed: int = 0
    planned: int = 0
    pages: list[int] = field(default_factory=list)
    flying: int = 0
    ended: bool = False


class Device:
    """Steps are planned by `send`, executed and reported in order by `finish`."""

    def __init__(self, capacity: Capacity, random: Random) -> None:
        self.capacity = capacity
        self.clients: dict[int, Client] = {}
        self.slots: dict[int, Slot] = {}
        self.steps: deque[tuple[Batch, dict[int, tuple[Client, Slot]]]] = deque()
        self._random = random

    def owned(self) -> list[int]:
        """Pages of all rows."""
        return [page for slot in self.slots.values() for page in slot.pages]

    def send(self, batch: Batch) -> None:
        """Check `batch` and put it in flight."""
        assert len(self.steps) < self.capacity.depth, "deeper than the pipeline"
        assert batch.run or batch.release, "a Batch without a purpose"
        for id in batch.release:
            assert not self.clients[id].live, "a live row was released"
            del self.slots[id]
        for id in batch.evict:
            assert self.clients[id].live, "a dead row was evicted"
            assert self.slots.pop(id).flying == 0, "evicted with Steps in flight"
        self._admit(batch)
        self._grow(batch)
        for run in batch.run:
            self._check(run)
        rows = {run.id: (self.clients[run.id], self.slots[run.id]) for run in batch.run}
        for run in batch.run:
            slot = self.slots[run.id]
            slot.flying += 1
            slot.planned += run.prefill
        self.steps.append((batch, rows))

    def _admit(self, batch: Batch) -> None:
        assert len(batch.run) <= self.capacity.max_rows, "too many rows"
        assert len({run.id for run in batch.run}) == len(batch.run), "a row is named twice"
        assert sum(run.prefill for run in batch.run) <= self.capacity.prefill_tokens, "budget"
        assert not {run.id for run in batch.run} & {*batch.release, *batch.evict}, "run and gone"
        for run in batch.run:
            client = self.clients[run.id]
            assert client.live, "a dead row runs"
            self.slots.setdefault(run.id, Slot(client.job.prompt + client.emitted))

    def _grow(self, batch: Batch) -> None:
        for id, pages in batch.grow:
            assert id in {run.id for run in batch.run}, "a row grows that does not run"
            assert set(pages) <= set(range(1, self.capacity.pages + 1)), "no such page"
            self.slots[id].pages.extend(pages)
        owned = self.owned()
        assert len(owned) == len(set(owned)), "a page has two owners"

    def _check(self, run: Run) -> None:
        client, slot = self.clients[run.id], self.slots[run.id]
        flights = [r for batch, _ in self.steps for r in batch.run if r.id == run.id]
        done = sum(flight.prefill for flight in flights)
        known = client.job.prompt + client.emitted
        unfed = slot.known - slot.planned
        assert (run.prefill > 0) == (unfed > 0), "prefill first, then decode"
        assert run.prefill <= unfed, "more prefill than tokens"
        emitting = [f.draft + 1 for f in flights if not f.prefill]
        if done and not unfed:
            emitting.append(1)
        left = client.job.max_new - client.emitted - len(emitting)
        assert left >= 1, "planned although Steps in flight exhaust it"
        limits = (client.job.speculate, self.capacity.speculate)
        cap = min(limit for limit in limits if limit is not None)
        assert 0 <= run.draft <= min(cap, left - 1), "drafts too far"
        worst = known + sum(emitting) + (run.draft + 1 if not run.prefill else 1)
        room = len(slot.pages) * self.capacity.page_size
        assert worst <= room, "worst case not reserved"

    def finish(self, now: float) -> list[Outcome]:
        """Execute the oldest Step and record its outcomes."""
        batch, rows = self.steps.popleft()
        outcomes = []
        for run in batch.run:
            client, slot = rows[run.id]
            slot.flying -= 1
            outcomes.append(self._execute(run, client, slot, len(batch.run)))
            if client.live:
                self._deliver(client, outcomes[-1], now)
        return outcomes

    def seconds(self, batch: Batch) -> float:
        """Device time of a Step: the longest draft, one verification."""
        draft = max((run.draft for run in batch.run), default=0)
        if not batch.run:
            return 0.001
        return draft * self.capacity.draft_token_seconds + self.capacity.verify_seconds

    def _execute(self, run: Run, client: Client, slot: Slot, rows: int) -> Outcome:
        if slot.ended:
            return Outcome(run.id, 0, 0, 0, 0, 0.0)
        slot.fed += run.prefill
        accepted = 0
        while accepted < run.draft and self._random.random() < client.acceptance:
            accepted += 1
        emitted = accepted + 1 if slot.fed >= slot.known or not run.prefill else 0
        # The truth runs ahead of what was delivered only by Steps that are executed in order.
        emitted = min(emitted, self._left(client))
        end = None
        if emitted and emitted == self._left(client):
            end = End.EOS if client.answer < client.job.max_new else End.LENGTH
        slot.ended = end is not None
        drafted = run.draft
        step = drafted * self.capacity.draft_token_seconds + self.capacity.verify_seconds
        return Outcome(run.id, run.prefill, drafted, accepted, emitted, step / rows, end)

    def _left(self, client: Client) -> int:
        return min(client.answer, client.job.max_new) - client.emitted

    def _deliver(self, client: Client, outcome: Outcome, now: float) -> None:
        client.emitted += outcome.emitted
        client.seconds.append(now)
        client.ends += outcome.end is not None

    def lose(self) -> list[list[Outcome]]:
        """The group dies: every Step in flight is reported lost, and no row is left."""
        lost = [
            [Outcome(run.id, 0, 0, 0, 0, 0.0, End.LOST) for run in batch.run]
            for batch, _ in self.steps
        ]
        self.steps.clear()
        self.slots.clear()
        return lost


def serve(
    scheduler: Scheduler, device: Device, clients: Sequence[Client]
) -> Iterator[tuple[float, Batch]]:
    """Drive `scheduler` in virtual time until all have ended; yield each Batch when it is sent."""
    arrivals = deque(sorted(clients, key=lambda client: client.job.arrived))
    flying: deque[float] = deque()
    now = 0.0
    while True:
        while len(flying) < device.capacity.depth and (batch := scheduler.next_batch(now)):
            device.send(batch)
            flying.append(max(now, flying[-1] if flying else now) + device.seconds(batch))
            yield now, batch
        if arrivals and (not flying or arrivals[0].job.arrived <= flying[0]):
            client = arrivals.popleft()
            now = max(now, client.job.arrived)
            device.clients[client.job.id] = client
            scheduler.submit(client.job, now)
        elif flying:
            now = flying.popleft()
            scheduler.complete(device.finish(now), now)
        else:
            return


def run(scheduler: Scheduler, device: Device, clients: Sequence[Client]) -> list[Batch]:
    """All Batches of `serve`."""
    return [batch for _, batch in serve(scheduler, device, clients)]
