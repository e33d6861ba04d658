"""The benchmark's virtual device, which here also checks every rule of a Batch that it can.

It knows the truth that a scheduler only learns from outcomes: how many drafts are accepted, and
where an answer ends. Every page slot remembers the tokens that its KV stands for, so a row that
enters with pages of others, or returns from the host, must hold what it claims. Steps are executed
when they are done, not when they are sent, so that those in flight can be lost. Assertion messages
name the broken rule.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from benchmark.simulation.device import Answer, DeviceRow, RowOutcome, VirtualDevice
from benchmark.simulation.simulator import Planned, drive
from benchmark.simulation.step_costs import StepWork
from router.scheduler.api import (
    DeviceCapacity,
    Job,
    Outcome,
    ScheduledBatch,
    ScheduledRow,
    Scheduler,
    Swap,
)


def capacity(**changes: float | str) -> DeviceCapacity:
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
    return DeviceCapacity(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Client:
    """The router's record of one request, and its true answer."""

    job: Job
    answer: int
    """Tokens after which the answer ends by itself."""
    acceptance: float
    """Probability that a draft token is accepted after those before it."""
    emitted: int = 0
    end_count: int = 0
    cancelled: bool = False
    seconds: list[float] = field(default_factory=list)
    """When it was served, or ended."""
    chain: list[int] = field(default_factory=list)
    """For each known token, a value that stands for it and all before it."""
    shares_pages: bool = False
    """Its pages have hashes."""
    random: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        if not self.chain:
            self.chain = chain(self.job.prompt, (), self.job.id)

    @property
    def live(self) -> bool:
        return not self.end_count and not self.cancelled

    @property
    def length(self) -> int:
        return min(self.answer, self.job.max_new)

    def count_accepted(self, position: int, draft: int) -> int:
        accepted = 0
        while accepted < draft and self.random.random() < self.acceptance:
            accepted += 1
        return accepted


def chain(count: int, before: Sequence[int], salt: int) -> list[int]:
    """`before` and as many values of tokens that only `salt` has as make `count`."""
    values = list(before[:count])
    while len(values) < count:
        values.append(hash((values[-1] if values else 0, salt, len(values))))
    return values


def page_hashes(values: Sequence[int], size: int, first: int = 0) -> tuple[int, ...]:
    """What names the full pages of `values` from page `first` on."""
    return tuple(values[size * page + size - 1] for page in range(first, len(values) // size))


def page_slot_pairs(swap: Swap) -> Iterator[tuple[int, int]]:
    """Each page with its host slot."""
    return zip(swap.pages, swap.slots, strict=True)


Kv = dict[tuple[int, int], int]
"""What the KV at a page's offset stands for."""


@dataclass
class ShardRow:
    """A row on the shards, as it was planned: from its first Step until its release."""

    request: DeviceRow
    """What is true of it."""
    known_tokens: int
    """When it entered."""
    chain: list[int]
    draft_cached: int = 0
    """Tokens whose KV the draft holds."""
    planned_tokens: int = 0
    """Known tokens that Steps feed, done or in flight."""
    pages: list[int] = field(default_factory=list)
    steps_in_flight: int = 0
    swapping_in: bool = False
    """Its KV comes back with a Step in flight."""


class Device(VirtualDevice):
    """Steps are checked by `send`, executed and reported in order by `finish`."""

    def __init__(self, capacity: DeviceCapacity, random: Random) -> None:
        super().__init__(self._seconds_by_draft)
        self.capacity = capacity
        self.clients: dict[int, Client] = {}
        self.slots: dict[int, ShardRow] = {}
        self.steps: deque[tuple[ScheduledBatch, dict[int, tuple[Client, ShardRow]]]] = deque()
        self.host: dict[int, int] = {}
        """Who owns a host slot."""
        self.cached_tokens = 0
        """Tokens that rows entered with."""
        self._random = random
        self._executing: dict[int, tuple[Client, ShardRow]] = {}
        """Rows of the Step that is being executed."""
        self._kv: tuple[Kv, Kv] = {}, {}
        """Of the target and of the draft; host slots are pages below 0."""

    def _seconds_by_draft(self, work: StepWork) -> float:
        """The longest draft, and one verification."""
        if not work.rows + work.prefilling:
            return 0.001
        capacity = self.capacity
        return work.longest_draft * capacity.draft_token_seconds + capacity.verify_seconds

    def add_request(self, job: Job, answer: Answer) -> None:
        assert isinstance(answer, Client)
        answer.random = self._random
        self.clients[job.id] = answer
        super().add_request(job, answer)

    def owned_pages(self) -> set[int]:
        """Pages of all rows."""
        return {page for slot in self.slots.values() for page in slot.pages}

    def send(self, batch: ScheduledBatch) -> float:
        """Check `batch` and put it in flight. Return its planned device time in seconds."""
        assert len(self.steps) < self.capacity.depth, "deeper than the pipeline"
        assert batch.run or batch.release or batch.swap_in, "a Batch without a purpose"
        for id in batch.release:
            assert not self.clients[id].live, "a live row was released"
            del self.slots[id]
        for id in batch.evict:
            assert self.clients[id].live, "a dead row was evicted"
            assert self.slots.pop(id).steps_in_flight == 0, "evicted with Steps in flight"
        self._swap_out(batch)
        self._admit(batch)
        self._grow(batch)
        self._swap_in(batch)
        for run in batch.run:
            self._check(run)
        rows = {run.id: (self.clients[run.id], self.slots[run.id]) for run in batch.run}
        for run in batch.run:
            slot = self.slots[run.id]
            slot.steps_in_flight += 1
            slot.planned_tokens += run.prefill
        self.steps.append((batch, rows))
        self._check_writers()
        longest = max((run.draft for run in batch.run), default=0)
        return self._seconds_by_draft(StepWork(len(batch.run), longest_draft=longest))

    def _swap_out(self, batch: ScheduledBatch) -> None:
        for id, pages, slots in batch.swap_out:
            assert self.clients[id].live, "a dead row was swapped out"
            row = self.slots.pop(id)
            assert row.steps_in_flight == 0, "swapped out with Steps in flight"
            assert list(pages) == row.pages[: len(pages)], "not the row's pages"
            assert len(pages) * self.capacity.page_size >= row.request.cached, "KV was left behind"
            live = {slot for slot, owner in self.host.items() if self.clients[owner].live}
            assert not live & set(slots), "a host slot has two owners"
            assert set(slots) <= set(range(self.capacity.host_pages)), "no such host slot"
            self.host.update(dict.fromkeys(slots, id))

    def _swap_in(self, batch: ScheduledBatch) -> None:
        entered = {start.id for start in batch.start}
        for id, pages, slots in batch.swap_in:
            assert id in entered, "swapped in without a start"
            assert all(self.host.pop(slot) == id for slot in slots), "not the row's host slots"
            assert list(pages) == self.slots[id].pages[: len(slots)], "not the row's pages"
            assert id not in {run.id for run in batch.run}, "it runs before its KV is there"
            self.slots[id].swapping_in = True
            self.slots[id].steps_in_flight += 1
        taken = {slot for swap in batch.swap_out for slot in swap.slots}
        assert not taken & {slot for swap in batch.swap_in for slot in swap.slots}, "reused at once"

    def _check_writers(self) -> None:
        """No page that a Step in flight may write to has two owners."""
        owners = Counter(page for slot in self.slots.values() for page in slot.pages)
        for slot in self.slots.values():
            if slot.steps_in_flight:
                first = slot.request.cached // self.capacity.page_size
                assert all(owners[page] == 1 for page in slot.pages[first:]), "shared and written"

    def _admit(self, batch: ScheduledBatch) -> None:
        assert len(batch.run) <= self.capacity.max_rows, "too many rows"
        assert len({run.id for run in batch.run}) == len(batch.run), "a row is named twice"
        assert sum(run.prefill for run in batch.run) <= self.capacity.prefill_tokens, "budget"
        assert not {run.id for run in batch.run} & {*batch.release, *batch.evict}, "run and gone"
        for run in batch.run:
            assert self.clients[run.id].live, "a dead row runs"
        for id in {*(run.id for run in batch.run), *(swap.id for swap in batch.swap_in)}:
            client = self.clients[id]
            known = client.job.prompt + client.emitted
            if id not in self.slots:
                self.slots[id] = ShardRow(self._rows[id], known, client.chain[:known])
                self._rows[id].cached = 0
        for id, cached, draft_cached in batch.start:
            row = self.slots[id]
            assert row.steps_in_flight == row.planned_tokens == len(row.pages) == 0, (
                "it entered before"
            )
            assert 0 <= draft_cached <= cached, "the draft is ahead"
            assert 0 < cached < row.known_tokens, "its last token is not fed"
            row.request.cached = row.planned_tokens = cached
            row.draft_cached = draft_cached
            self.cached_tokens += cached

    def _grow(self, batch: ScheduledBatch) -> None:
        for id, pages in batch.grow:
            assert id in {*(run.id for run in batch.run), *(swap.id for swap in batch.swap_in)}, (
                "a row grows that neither runs nor returns"
            )
            assert set(pages) <= set(range(1, self.capacity.pages + 1)), "no such page"
            self.slots[id].pages.extend(pages)
            client, size = self.clients[id], self.capacity.page_size
            most = -(-(client.job.prompt + client.job.max_new) // size)
            assert len(self.slots[id].pages) <= most, "more pages than reserved"

    def _check(self, run: ScheduledRow) -> None:
        client, slot = self.clients[run.id], self.slots[run.id]
        assert not slot.swapping_in, "it runs before its KV is known to be there"
        lacks_last_token = slot.planned_tokens == slot.known_tokens - 1
        if lacks_last_token and not run.prefill and not slot.steps_in_flight:
            slot.planned_tokens = slot.known_tokens  # it entered with all that decoding needs
        flights = [r for batch, _ in self.steps for r in batch.run if r.id == run.id]
        done = sum(flight.prefill for flight in flights)
        known = client.job.prompt + client.emitted
        unfed = slot.known_tokens - slot.planned_tokens
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
        worst = min(worst, client.job.max_kv_tokens)
        room = len(slot.pages) * self.capacity.page_size
        assert worst <= room, "worst case not reserved"

    def finish(self, now: float) -> list[Outcome]:
        """Execute the oldest Step and record its outcomes."""
        batch, rows = self.steps.popleft()
        self._copy(
            [(page, -1 - slot) for swap in batch.swap_out for page, slot in page_slot_pairs(swap)]
        )
        self._copy([(copy.source, copy.target) for copy in batch.copy])
        self._copy(
            [(-1 - slot, page) for swap in batch.swap_in for page, slot in page_slot_pairs(swap)]
        )
        for swap in batch.swap_in:
            if swap.id in self.slots and self.slots[swap.id].swapping_in:
                self.slots[swap.id].swapping_in = False
                self.slots[swap.id].steps_in_flight -= 1
        self._executing = rows
        outcomes, _ = self.execute(batch)
        for outcome in outcomes:
            client, slot = rows[outcome.id]
            slot.steps_in_flight -= 1
            if client.live:
                self._deliver(client, outcome, now)
        return outcomes

    def _run_row(self, row: DeviceRow, run: ScheduledRow) -> RowOutcome:
        client, slot = self._executing[run.id]
        self._check_kv(slot)
        first = row.cached if run.prefill else row.known - 1
        outcome = super()._run_row(row, run)
        hashes = self._write(run, client, slot, first, outcome)
        return outcome._replace(draft_cached=slot.draft_cached, hashes=hashes)

    def _check_kv(self, slot: ShardRow) -> None:
        """What the row counts as cached is its own tokens."""
        for kv, count in zip(self._kv, (slot.request.cached, slot.draft_cached), strict=True):
            for position in range(count):
                assert kv[self._kv_slot(slot, position)] == slot.chain[position], (
                    "the KV of another row"
                )

    def _write(
        self, run: ScheduledRow, client: Client, slot: ShardRow, first: int, done: RowOutcome
    ) -> tuple[int, ...]:
        """Fill the pages from token `first` on as target and draft do, rejected drafts too.

        Returns the hashes of the pages that are complete now.
        """
        known, size = len(slot.chain), self.capacity.page_size
        reach = first + run.prefill if run.prefill else known + run.draft
        slot.chain = chain(known + done.emitted, slot.chain, client.job.id)
        follows = slot.draft_cached == first if run.prefill else not self.capacity.speculate
        held = reach if follows else known + run.draft - 1 if run.draft else slot.draft_cached
        owners = Counter(page for row in self.slots.values() for page in row.pages)
        for kv, start, stop in zip(
            self._kv, (first, slot.draft_cached), (reach, held), strict=True
        ):
            for position in range(start, stop):
                right = position < known + done.accepted and position < len(slot.chain)
                page = slot.pages[position // size]
                assert right or owners[page] <= 1, "a rejected draft in a shared page"
                kv[self._kv_slot(slot, position)] = slot.chain[position] if right else -1
        if follows:
            slot.draft_cached = slot.request.cached
        elif run.draft:
            slot.draft_cached = min(known + min(done.accepted, run.draft - 1), len(slot.chain) - 1)
        if client.live:
            client.chain = slot.chain[:]
        return page_hashes(slot.chain, size, known // size) if client.shares_pages else ()

    def _kv_slot(self, slot: ShardRow, position: int) -> tuple[int, int]:
        size = self.capacity.page_size
        return slot.pages[position // size], position % size

    def _copy(self, moves: Sequence[tuple[int, int]]) -> None:
        for kv in self._kv:
            offsets = range(self.capacity.page_size)
            read = [[kv.get((source, at)) for at in offsets] for source, _ in moves]
            for (_, target), values in zip(moves, read, strict=True):
                for at, value in enumerate(values):
                    kv.pop((target, at), None)
                    if value is not None:
                        kv[target, at] = value

    def _deliver(self, client: Client, outcome: Outcome, now: float) -> None:
        client.emitted += outcome.emitted
        client.seconds.append(now)
        client.end_count += outcome.end is not None

    def fail_group(self) -> None:
        """The group dies: no Step in flight completes, and no row and no KV is left."""
        self.steps.clear()
        self.slots.clear()
        self._held_rows.clear()
        self.host.clear()
        self._kv[0].clear()
        self._kv[1].clear()


def serve(
    scheduler: Scheduler, device: Device, clients: Sequence[Client]
) -> Iterator[tuple[float, ScheduledBatch]]:
    """Drive `scheduler` in virtual time until all have ended; yield each Batch when it is sent."""
    arrivals = sorted(clients, key=lambda client: client.job.arrived)
    pairs = [(client.job, client) for client in arrivals]
    for event in drive(scheduler, device, pairs, device.capacity.depth):
        if isinstance(event, Planned):
            yield event.now, event.batch


def run(scheduler: Scheduler, device: Device, clients: Sequence[Client]) -> list[ScheduledBatch]:
    """All Batches of `serve`."""
    return [batch for _, batch in serve(scheduler, device, clients)]
