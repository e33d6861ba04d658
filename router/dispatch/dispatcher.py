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
from router.dispatch.events import CancelRequested, Event, EventQueue, Submitted
from router.dispatch.step_log import StepLog
from router.dispatch.step_pipeline import PromptPages, StepPipeline
from router.errors import Cancelled, GenerationFailed, Unavailable, ValidationError
from router.observability.metrics import Metrics
from router.offload import offload
from router.requests import request as rules
from router.requests.record import LiveRequest
from router.requests.request import Request, ResolvedLimits
from router.scheduler import api
from router.scheduler.api import RequestStatus, Scheduler, SchedulerStatus
from router.shards.group import ShardGroup, ShardGroupFailed
from router.text.encoder import Encoder
from shard.wire.protocol import End, RowResult, StepResult


class Dispatcher:
    """Owns the scheduler and the Records."""

    def __init__(
        self,
        scheduler: Scheduler,
        shards: ShardGroup,
        encoder: Encoder,
        limits: ResolvedLimits,
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
        self._step_log = log
        self._admission = Admission(limits.max_concurrent_requests)
        self._pipeline = StepPipeline(shards.ready_messages[0].page_size)
        self._events = EventQueue()
        self._records: dict[int, LiveRequest] = {}
        """Requests that the scheduler knows, or will once the inbox is read, by id."""
        self._last_id = 0
        self._failed = False

    async def run(self) -> None:
        """Serve until cancelled. Raises ShardGroupFailed; every live request has ended badly by
        then.
        """
        self._shards.set_listener(self._events.put)
        try:
            while True:
                self._fill_pipeline()
                event = await self._events.get()
                self._shards.check_health(self._clock())
                if event is not None:
                    self._handle_event(event)
        finally:
            self._fail_all()

    @asynccontextmanager
    async def open(self, request: Request, request_id: str) -> AsyncIterator[LiveRequest]:
        """One request's whole life; leaving is its only exit, and cancels what still runs.

        Raises Overloaded, Unavailable or ValidationError before anything runs.
        """
        async with self.open_all([request], request_id) as (record,):
            yield record

    @asynccontextmanager
    async def open_all(
        self,
        requests: Sequence[Request],
        request_id: str,
        prepare: Callable[[Request], Awaitable[Request]] | None = None,
    ) -> AsyncIterator[tuple[LiveRequest, ...]]:
        """`open` for requests that live together, such as the sequences of `best_of`.

        Each takes a permit; they get them all, or Overloaded is raised. `complete` adds what takes
        work to a request whose length is known to fit.
        """
        self._require_shards()
        with self._admission.hold(len(requests)):
            records: list[LiveRequest] = []
            try:
                for request in requests:
                    records.append(await self._enqueue(request, request_id, prepare))
                yield tuple(records)
            finally:
                for record in records:
                    if record.is_live:
                        self._events.put(CancelRequested(record))

    def cancel(self, request_id: str) -> int:
        """End what runs under `request_id` with Cancelled; the number of requests that did."""
        live = (record for record in self._records.values() if record.is_live)
        found = [record for record in live if record.request_id == request_id]
        for record in found:
            record.fail(Cancelled(), self._clock())
            self._events.put(CancelRequested(record))
        return len(found)

    def request_statuses(self, request_id: str) -> list[tuple[LiveRequest, RequestStatus | None]]:
        """What runs under `request_id`, and how each stands if the scheduler has heard of it."""
        now = self._clock()
        found = [record for record in self._records.values() if record.request_id == request_id]
        return [
            (each, self._scheduler.request_status(each.id, now)) for each in found if each.is_live
        ]

    def scheduler_status(self) -> SchedulerStatus:
        """The scheduler's present state."""
        return self._scheduler.status()

    def learned_state(self) -> dict[str, Any]:
        """What the scheduler knows that is worth keeping."""
        return self._scheduler.learned_state()

    @property
    def full(self) -> bool:
        """Whether no permit is free."""
        return self._admission.full

    def unhealthy_reason(self) -> str | None:
        """None, or why requests had better go elsewhere: failed, draining or stalled."""
        if self._failed:
            return "failed"
        if self._admission.draining:
            return "draining"
        return "stalled" if self._shards.is_overdue(self._clock()) else None

    async def drain(self) -> None:
        """Refuse new requests and wait until none is open."""
        await self._admission.drain()

    def _require_shards(self) -> None:
        if self._failed:
            raise Unavailable("Model is unavailable")

    async def _enqueue(
        self,
        request: Request,
        request_id: str,
        prepare: Callable[[Request], Awaitable[Request]] | None,
    ) -> LiveRequest:
        arrived = self._clock()
        prompt, max_new = rules.fit_to_context(
            request, await self._prompt_ids(request), self._limits
        )
        request = request if prepare is None else await prepare(request)
        if request.grammar is not None:
            await self._shards.prepare_grammar(request.grammar)
        named = await offload(4 * len(prompt), self._pipeline.hash_pages, request, prompt)
        self._require_shards()  # if they were lost meanwhile, nobody reads the inbox
        self._last_id += 1
        record = LiveRequest(
            self._last_id, request_id, request, prompt, max_new, self._encoder.tokenizer, arrived
        )
        record.queued = self._clock()
        self._records[record.id] = record
        self._events.put(Submitted(record, named))
        return record

    async def _prompt_ids(self, request: Request) -> Sequence[int]:
        if request.prompt_token_ids is not None:
            return request.prompt_token_ids
        return await self._encoder.encode(request.inputs, request.add_special_tokens)

    def _fill_pipeline(self) -> None:
        while self._shards.has_capacity:
            now = self._clock()
            batch = self._scheduler.next_batch(now)
            if batch is None:
                return
            self._shards.send(self._pipeline.build_step(batch, self._records, now), now)

    def _handle_event(self, event: Event) -> None:
        match event:
            case Submitted(record, named):
                self._on_submitted(record, named)
            case CancelRequested(record):
                self._on_cancel_requested(record)
            case StepResult():
                self._on_step_result(event)
            case ShardGroupFailed():
                raise event

    def _on_submitted(self, record: LiveRequest, prompt_pages: PromptPages) -> None:
        if record.id not in self._records:
            return  # it left before it was heard of
        try:
            self._scheduler.submit(self._pipeline.add(record, prompt_pages), record.queued)
        except ValueError as fault:  # it can never fit
            record.fail(ValidationError(str(fault)), self._clock())
            self._remove(record)

    def _remove(self, record: LiveRequest) -> None:
        self._records.pop(record.id, None)
        self._pipeline.remove(record.id)

    def _on_cancel_requested(self, record: LiveRequest) -> None:
        if record.id in self._records:  # it may have ended before this was read
            self._remove(record)
            self._scheduler.cancel(record.id, self._clock())

    def _on_step_result(self, result: StepResult) -> None:
        now, landed = self._clock(), self._pipeline.complete(result)
        if self._step_log:
            self._step_log.write(landed, self._records, now)
        for item in landed.items:
            if item.end is not None:
                self._save_preemptions(item.id, now)
        self._scheduler.complete(landed.outcomes, now)
        for item, outcome in zip(landed.items, landed.outcomes, strict=True):
            self._apply_row_result(item, outcome.seconds, now)
        rows = len(landed.items)
        self._metrics.step_completed(landed.method, rows, landed.seconds, mixed=landed.mixed)
        self._metrics.step_detokenized(landed.method, self._clock() - now)

    def _save_preemptions(self, id: int, now: float) -> None:
        """Ask the scheduler about a request that is about to end."""
        record, look = self._records.get(id), self._scheduler.request_status(id, now)
        if record is not None and look is not None:
            record.preemptions = look.preemptions

    def _apply_row_result(self, item: RowResult, seconds: float, now: float) -> None:
        record = self._records.get(item.id)
        if record is None:
            return  # it ended while the Step was in flight
        record.device_seconds += seconds
        if item.end is End.ERROR:
            record.fail(GenerationFailed("the model gave no usable result"), now)
        else:
            self._append_tokens(record, item, now)
        if record.is_live:
            return
        if item.end is None:  # only the text shows such an end
            self._save_preemptions(record.id, now)
            self._scheduler.cancel(record.id, now, api.RowEnded.STOP)
        self._remove(record)

    def _append_tokens(self, record: LiveRequest, item: RowResult, now: float) -> None:
        before = record.last_token
        kept = record.apply(item, now)
        if 0 < kept < len(record.tokens):
            self._metrics.tokens_emitted(kept, now - before)
        if item.drafted:
            self._metrics.tokens_drafted(item.drafted, item.accepted)

    def _fail_all(self) -> None:
        self._failed = True
        for record in self._records.values():
            record.fail(GenerationFailed("the model's processes were lost"), self._clock())
        for method in self._pipeline.abort():
            self._metrics.step_aborted(method)
