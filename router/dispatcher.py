"""The one loop between requests, scheduler and shards.

It fills the pipeline, takes one event and applies it, as the simulator does. It alone reads the
clock, calls the scheduler and writes Records. What to run is the scheduler's choice; here every
request gets exactly one end. Stop strings are seen only here: such a request ends at once, its
row is cancelled, and what Steps in flight still bring for it is dropped. Shards that are lost end
every live request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from router import request as rules
from router import steps
from router.errors import Cancelled, Generation, Invalid, Overloaded, Unavailable
from router.metrics import Metrics
from router.prefix import PageNames
from router.record import Record
from router.request import Bounds, Request
from router.scheduler.base import Batch, Job, Scheduler
from router.shards import GroupLost, Report, ShardGroup
from router.text import Vocabulary
from shard.protocol import End, Item, Step, StepResult

PULSE_SECONDS = 1.0
"""Longest time between two looks at the shards' health."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A request has its Record and wants to run."""

    record: Record


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request's caller has left, or someone has stopped it."""

    record: Record


Event = Submit | Cancel | Report


class Dispatcher:
    """Owns the scheduler, the Records and the numbers of Steps."""

    def __init__(
        self,
        scheduler: Scheduler,
        shards: ShardGroup,
        vocabulary: Vocabulary,
        limits: Bounds,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._shards = shards
        self._vocabulary = vocabulary
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._records: dict[int, Record] = {}
        """Requests that the scheduler knows, or will once the inbox is read, by id."""
        self._names: dict[int, PageNames] = {}
        """Of the pages of the requests that the scheduler knows."""
        self._held: set[int] = set()
        """Rows that the shards hold."""
        self._flights: deque[Step] = deque()
        self._last_id = self._last_step = 0
        self._permits = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = self._failed = False

    async def run(self) -> None:
        """Serve until cancelled. Raises GroupLost; every live request has ended badly by then."""
        self._shards.subscribe(self._inbox.put_nowait)
        try:
            while True:
                self._fill()
                event = await self._next()
                self._shards.check(self._clock())
                if event is not None:
                    self._apply(event)
        finally:
            self._fail()

    @asynccontextmanager
    async def open(self, request: Request, request_id: str) -> AsyncIterator[Record]:
        """One request's whole life; leaving is its only exit, and cancels what still runs.

        Raises Overloaded, Unavailable or Invalid before anything runs.
        """
        with self._permit():
            record = await self._submit(request, request_id)
            try:
                yield record
            finally:
                if record.live:
                    self._inbox.put_nowait(Cancel(record))

    def cancel(self, request_id: str) -> int:
        """End what runs under `request_id` with Cancelled; the number of requests that did."""
        live = (record for record in self._records.values() if record.live)
        found = [record for record in live if record.request_id == request_id]
        for record in found:
            record.fail(Cancelled(), self._clock())
            self._inbox.put_nowait(Cancel(record))
        return len(found)

    @property
    def full(self) -> bool:
        """Whether no permit is free."""
        return self._permits >= self._limits.max_concurrent_requests

    def healthy(self) -> str | None:
        """None, or why requests had better go elsewhere: failed, draining or stalled."""
        if self._failed:
            return "failed"
        if self._draining:
            return "draining"
        return "stalled" if self._shards.late(self._clock()) else None

    async def drain(self) -> None:
        """Refuse new requests and wait until none is open."""
        self._draining = True
        await self._idle.wait()

    @contextmanager
    def _permit(self) -> Iterator[None]:
        self._require_shards()
        if self._draining:
            raise Unavailable("Server is shutting down")
        if self.full:
            raise Overloaded
        self._permits += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._permits -= 1
            if not self._permits:
                self._idle.set()

    def _require_shards(self) -> None:
        if self._failed:
            raise Unavailable("Model is unavailable")

    async def _submit(self, request: Request, request_id: str) -> Record:
        arrived = self._clock()
        ids = await self._vocabulary.encode(request.inputs)
        prompt, max_new = rules.fit(request, ids, self._limits)
        self._require_shards()  # if they were lost meanwhile, nobody reads the inbox
        self._last_id += 1
        record = Record(
            self._last_id, request_id, request, prompt, max_new, self._vocabulary, arrived
        )
        record.queued = self._clock()
        self._records[record.id] = record
        self._inbox.put_nowait(Submit(record))
        return record

    def _fill(self) -> None:
        while self._shards.free:
            now = self._clock()
            batch = self._scheduler.next_batch(now)
            if batch is None:
                return
            step = self._step(batch, now)
            self._flights.append(step)
            self._shards.send(step, now)

    def _step(self, batch: Batch, now: float) -> Step:
        held = self._held.difference(steps.gone(batch))
        fresh = [self._records[run.id] for run in batch.run if run.id not in held]
        for record in fresh:
            record.plan(now)
        self._last_step += 1
        step = steps.step(self._last_step, batch, self._held, fresh)
        self._held = held.union(record.id for record in fresh)
        return step

    async def _next(self) -> Event | None:
        try:
            async with asyncio.timeout(PULSE_SECONDS):
                return await self._inbox.get()
        except TimeoutError:
            return None

    def _apply(self, event: Event) -> None:
        match event:
            case Submit(record):
                self._start(record)
            case Cancel(record):
                self._stop(record)
            case StepResult():
                self._complete(event)
            case GroupLost():
                raise event

    def _start(self, record: Record) -> None:
        now, cap = record.queued, record.request.speculate
        names = PageNames(self._shards.ready[0].page_size)
        hashes = names.add(record.prompt)
        job = Job(record.id, now, len(record.prompt), record.max_new, None, cap, hashes)
        try:
            self._scheduler.submit(job, now)
            self._names[record.id] = names
        except ValueError as fault:  # it can never fit
            record.fail(Invalid(str(fault)), self._clock())
            del self._records[record.id]

    def _stop(self, record: Record) -> None:
        if self._records.pop(record.id, None):  # it may have ended before this was read
            del self._names[record.id]
            self._scheduler.cancel(record.id, self._clock())

    def _complete(self, result: StepResult) -> None:
        now, step = self._clock(), self._flights.popleft()
        rows = steps.done(step, result)
        self._scheduler.complete(steps.outcomes(rows, result.seconds, self._names), now)
        for _, item in rows:
            self._take(item, now)
        self._metrics.step(steps.method(step), len(rows), result.seconds)
        view = self._scheduler.view()
        self._metrics.observe(view, sum(view.waiting))

    def _take(self, item: Item, now: float) -> None:
        record = self._records.get(item.id)
        if record is None:
            return  # it ended while the Step was in flight
        if item.end is End.ERROR:
            record.fail(Generation("the model gave no usable result"), now)
        else:
            self._extend(record, item, now)
        if record.live:
            return
        del self._records[record.id], self._names[record.id]
        if item.end is None:
            self._scheduler.cancel(record.id, now)  # only the text shows such an end

    def _extend(self, record: Record, item: Item, now: float) -> None:
        before = record.last_token
        kept = record.take(item, now)
        if 0 < kept < len(record.tokens):
            self._metrics.emitted(kept, now - before)
        if item.drafted:
            self._metrics.speculated(item.drafted, item.accepted)

    def _fail(self) -> None:
        self._failed = True
        for record in self._records.values():
            record.fail(Generation("the model's processes were lost"), self._clock())
        for step in self._flights:
            self._metrics.step_lost(steps.method(step))
