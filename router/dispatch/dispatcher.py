"""The one loop between requests, scheduler and shards.

It fills the pipeline, takes one event and applies it, as the simulator does. It alone reads the
clock, calls the scheduler and writes Records. Who comes in is `admission`'s choice, what to run
the scheduler's; here every request gets exactly one end. Stop strings are seen only here: such a
request ends at once, its row is cancelled, and what Steps in flight still bring for it is dropped.
Shards that are lost end every live request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from router.dispatch.admission import Admission
from router.dispatch.events import Cancel, Event, Inbox, Submit
from router.dispatch.step_log import StepLog
from router.dispatch.step_pipeline import Named, Pipeline
from router.errors import Cancelled, Generation, Invalid, Unavailable
from router.observability.metrics import Metrics
from router.offload import aside
from router.requests import request as rules
from router.requests.record import Record
from router.requests.request import Bounds, Request
from router.scheduler import api
from router.scheduler.api import Look, Scheduler, View
from router.shards.group import GroupLost, ShardGroup
from router.text.encoder import Encoder
from shard.wire.protocol import End, Item, StepResult


class Dispatcher:
    """Owns the scheduler and the Records."""

    def __init__(
        self,
        scheduler: Scheduler,
        shards: ShardGroup,
        encoder: Encoder,
        limits: Bounds,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        log: StepLog | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._shards = shards
        self._encoder = encoder
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._admission = Admission(limits.max_concurrent_requests)
        self._pipeline = Pipeline(shards.ready[0].page_size)
        self._inbox = Inbox()
        self._records: dict[int, Record] = {}
        """Requests that the scheduler knows, or will once the inbox is read, by id."""
        self._last_id = 0
        self._failed = False

    async def run(self) -> None:
        """Serve until cancelled. Raises GroupLost; every live request has ended badly by then."""
        self._shards.subscribe(self._inbox.put)
        try:
            while True:
                self._fill()
                event = await self._inbox.take()
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
        async with self.open_all([request], request_id) as (record,):
            yield record

    @asynccontextmanager
    async def open_all(
        self,
        requests: Sequence[Request],
        request_id: str,
        complete: Callable[[Request], Awaitable[Request]] | None = None,
    ) -> AsyncIterator[tuple[Record, ...]]:
        """`open` for requests that live together, such as the sequences of `best_of`.

        Each takes a permit; they get them all, or Overloaded is raised. `complete` adds what takes
        work to a request whose length is known to fit.
        """
        self._require_shards()
        with self._admission.hold(len(requests)):
            records: list[Record] = []
            try:
                for request in requests:
                    records.append(await self._submit(request, request_id, complete))
                yield tuple(records)
            finally:
                for record in records:
                    if record.live:
                        self._inbox.put(Cancel(record))

    def cancel(self, request_id: str) -> int:
        """End what runs under `request_id` with Cancelled; the number of requests that did."""
        live = (record for record in self._records.values() if record.live)
        found = [record for record in live if record.request_id == request_id]
        for record in found:
            record.fail(Cancelled(), self._clock())
            self._inbox.put(Cancel(record))
        return len(found)

    def look(self, request_id: str) -> list[tuple[Record, Look | None]]:
        """What runs under `request_id`, and how each stands if the scheduler has heard of it."""
        now = self._clock()
        found = [record for record in self._records.values() if record.request_id == request_id]
        return [(each, self._scheduler.look(each.id, now)) for each in found if each.live]

    def view(self) -> View:
        """The scheduler's present state."""
        return self._scheduler.view()

    def learned(self) -> dict[str, Any]:
        """What the scheduler knows that is worth keeping."""
        return self._scheduler.learned()

    @property
    def full(self) -> bool:
        """Whether no permit is free."""
        return self._admission.full

    def healthy(self) -> str | None:
        """None, or why requests had better go elsewhere: failed, draining or stalled."""
        if self._failed:
            return "failed"
        if self._admission.draining:
            return "draining"
        return "stalled" if self._shards.late(self._clock()) else None

    async def drain(self) -> None:
        """Refuse new requests and wait until none is open."""
        await self._admission.drain()

    def _require_shards(self) -> None:
        if self._failed:
            raise Unavailable("Model is unavailable")

    async def _submit(
        self,
        request: Request,
        request_id: str,
        complete: Callable[[Request], Awaitable[Request]] | None,
    ) -> Record:
        arrived = self._clock()
        prompt, max_new = rules.fit(request, await self._ids(request), self._limits)
        request = request if complete is None else await complete(request)
        if request.grammar is not None:
            await self._shards.prepare(request.grammar)
        named = await aside(4 * len(prompt), self._pipeline.name, request, prompt)
        self._require_shards()  # if they were lost meanwhile, nobody reads the inbox
        self._last_id += 1
        record = Record(
            self._last_id, request_id, request, prompt, max_new, self._encoder.vocabulary, arrived
        )
        record.queued = self._clock()
        self._records[record.id] = record
        self._inbox.put(Submit(record, named))
        return record

    async def _ids(self, request: Request) -> Sequence[int]:
        if request.tokens is not None:
            return request.tokens
        return await self._encoder.encode(request.inputs, request.add_special_tokens)

    def _fill(self) -> None:
        while self._shards.free:
            now = self._clock()
            batch = self._scheduler.next_batch(now)
            if batch is None:
                return
            self._shards.send(self._pipeline.send(batch, self._records, now), now)

    def _apply(self, event: Event) -> None:
        match event:
            case Submit(record, named):
                self._start(record, named)
            case Cancel(record):
                self._stop(record)
            case StepResult():
                self._complete(event)
            case GroupLost():
                raise event

    def _start(self, record: Record, named: Named) -> None:
        if record.id not in self._records:
            return  # it left before it was heard of
        try:
            self._scheduler.submit(self._pipeline.enter(record, named), record.queued)
        except ValueError as fault:  # it can never fit
            record.fail(Invalid(str(fault)), self._clock())
            self._forget(record)

    def _forget(self, record: Record) -> None:
        self._records.pop(record.id, None)
        self._pipeline.leave(record.id)

    def _stop(self, record: Record) -> None:
        if record.id in self._records:  # it may have ended before this was read
            self._forget(record)
            self._scheduler.cancel(record.id, self._clock())

    def _complete(self, result: StepResult) -> None:
        now, landed = self._clock(), self._pipeline.land(result)
        if self._log:
            self._log.write(landed, self._records, now)
        for item in landed.items:
            if item.end is not None:
                self._look_back(item.id, now)
        self._scheduler.complete(landed.outcomes, now)
        for item, outcome in zip(landed.items, landed.outcomes, strict=True):
            self._take(item, outcome.seconds, now)
        rows = len(landed.items)
        self._metrics.step(landed.method, rows, landed.seconds, joined=landed.joined)
        self._metrics.told(landed.method, self._clock() - now)

    def _look_back(self, id: int, now: float) -> None:
        """Ask the scheduler about a request that is about to end."""
        record, look = self._records.get(id), self._scheduler.look(id, now)
        if record is not None and look is not None:
            record.preemptions = look.preemptions

    def _take(self, item: Item, seconds: float, now: float) -> None:
        record = self._records.get(item.id)
        if record is None:
            return  # it ended while the Step was in flight
        record.attained += seconds
        if item.end is End.ERROR:
            record.fail(Generation("the model gave no usable result"), now)
        else:
            self._extend(record, item, now)
        if record.live:
            return
        if item.end is None:  # only the text shows such an end
            self._look_back(record.id, now)
            self._scheduler.cancel(record.id, now, api.End.STOP)
        self._forget(record)

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
        for method in self._pipeline.lost():
            self._metrics.step_lost(method)
