"""The one loop between requests, scheduler and shards.

It fills the pipeline, takes one event and applies it, as the simulator does. It alone reads the
clock, calls the scheduler and writes records. `admission` decides how many requests there are, the
scheduler what runs; here every request gets exactly one end. Stop strings are seen only here: such
a request ends at once, its row is cancelled, and results of Steps in flight for it are dropped.
If the shards fail, live requests wait for the next group, which computes their prompts and the
tokens so far again; then they go on as if nothing had happened. Who starts that group is not known
here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from router.dispatch.admission import Admission
from router.dispatch.current_shards import CurrentShards
from router.dispatch.draft_watch import DraftWatch
from router.dispatch.events import CancelRequested, Event, EventQueue, ShardsRestarted, Submitted
from router.dispatch.page_hashes import PromptPages
from router.dispatch.step_log import StepLog
from router.dispatch.step_pipeline import StepPipeline
from router.errors import Cancelled, GenerationFailed, Unavailable, ValidationError
from router.observability.metrics import Metrics
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.scheduler import api
from router.scheduler.api import RequestStatus, ScheduledBatch, Scheduler, SchedulerStatus
from router.shards.group import ShardGroup, ShardGroupFailed
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import End, RowResult, StepResult

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that has passed every check and lacks nothing that a row needs."""

    request_id: str
    request: Request
    prompt: tuple[int, ...]
    """Token ids."""
    max_new: int
    """Maximum number of new tokens, at least 1."""
    pages: PromptPages
    arrived: float
    """By the dispatcher's clock, in seconds."""
    call: int = 0
    """Number of the HTTP request that it belongs to; later ones have larger numbers."""


class Dispatcher:
    """Owns the scheduler and the live requests; `permits` is the maximum number of sequences."""

    def __init__(
        self,
        scheduler: Scheduler,
        shards: ShardGroup,
        tokenizer: Tokenizer,
        permits: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        log: StepLog | None = None,
        draft_watch: DraftWatch | None = None,
    ) -> None:
        """`draft_watch` is None if nothing is ever drafted."""
        self._scheduler = scheduler
        self._shards = CurrentShards(shards)
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._clock = clock
        self._step_log = log
        self._draft_watch = draft_watch
        self._admission = Admission(permits)
        self._pipeline = StepPipeline()
        self._events = EventQueue()
        self._records: dict[int, LiveRequest] = {}
        """Requests that the scheduler knows, or will once the event queue is read, by id."""
        self._last_id = 0
        self._failed = False

    async def run(self) -> None:
        """Serve until cancelled; every live request then ends with an error."""
        self._shards.group.set_listener(self._events.put)
        try:
            while True:
                self._fill_pipeline()
                event = await self._events.get()
                self._shards.group.check_health(self._clock())
                if event is not None:
                    self._handle_event(event)
        finally:
            self._fail_all()

    def now(self) -> float:
        """The present time of the dispatcher's clock, in seconds."""
        return self._clock()

    def hold_permits(self, count: int) -> AbstractContextManager[None]:
        """`count` permits for the length of a `with`. Raises Overloaded or Unavailable."""
        self._require_running()
        return self._admission.hold(count)

    async def prepare_grammar(self, compiled: str) -> None:
        """Wait until every rank has compiled the grammar. Raises Unavailable at the end."""
        await self._shards.prepare_grammar(compiled)

    async def resume(self, shards: ShardGroup) -> None:
        """Go on with `shards`, after those before have failed; live requests are sent to them.

        Returns when they have compiled all grammars that rows need.
        """
        requests = [record.request for record in self._records.values()]
        for grammar in {request.grammar for request in requests if request.grammar is not None}:
            await shards.prepare_grammar(grammar)
        self._events.put(ShardsRestarted(shards))

    @contextmanager
    def start(self, prepared: PreparedRequest) -> Iterator[LiveRequest]:
        """Queue a request; leaving the `with` is its only exit, and cancels it if it still runs.

        Raises Unavailable if the dispatcher has ended.
        """
        self._require_running()  # else no event is ever handled
        record = self._new_record(prepared)
        self._records[record.id] = record
        self._events.put(Submitted(record, prepared.pages))
        try:
            yield record
        finally:
            if record.is_live:
                self._events.put(CancelRequested(record))

    def cancel(self, request_id: str) -> int:
        """End the live sequences of `request_id` with Cancelled; return their number.

        If several HTTP requests have that id, only the newest is cancelled.
        """
        cancelled = self._newest(request_id)
        for record in cancelled:
            record.fail(Cancelled(), self._clock())
            self._events.put(CancelRequested(record))
        return len(cancelled)

    def request_statuses(self, request_id: str) -> list[tuple[LiveRequest, RequestStatus | None]]:
        """The live sequences of `request_id`, each with its status once the scheduler knows it.

        If several HTTP requests have that id, they are those of the newest.
        """
        now = self._clock()
        return [
            (each, self._scheduler.request_status(each.id, now))
            for each in self._newest(request_id)
        ]

    def scheduler_status(self) -> SchedulerStatus:
        """The scheduler's current state."""
        return self._scheduler.status()

    def learned_state(self) -> dict[str, Any]:
        """The scheduler's learned state, which is worth saving."""
        return self._scheduler.learned_state()

    def unhealthy_reason(self) -> str | None:
        """None if healthy; else `failed`, `draining`, `restarting` or `stalled`."""
        if self._failed:
            return "failed"
        if self._admission.draining:
            return "draining"
        if self._shards.group.failure:
            return "restarting"
        return "stalled" if self._shards.group.is_overdue(self._clock()) else None

    async def drain(self) -> None:
        """Refuse new requests and wait until no permit is held."""
        await self._admission.drain()

    def _newest(self, request_id: str) -> list[LiveRequest]:
        """The live sequences of the newest HTTP request whose id is `request_id`."""
        records = [
            record
            for record in self._records.values()
            if record.is_live and record.request_id == request_id
        ]
        newest = max((record.call for record in records), default=0)
        return [record for record in records if record.call == newest]

    def _require_running(self) -> None:
        if self._failed:
            raise Unavailable("Model is unavailable")

    def _new_record(self, prepared: PreparedRequest) -> LiveRequest:
        self._last_id += 1
        record = LiveRequest(
            self._last_id,
            prepared.request_id,
            prepared.request,
            prepared.prompt,
            prepared.max_new,
            self._tokenizer,
            prepared.arrived,
            prepared.call,
        )
        record.queued = self._clock()
        return record

    def _fill_pipeline(self) -> None:
        while self._shards.group.has_capacity:
            now = self._clock()
            batch = self._scheduler.next_batch(now)
            if batch is None:
                return
            self._watch_drafts(batch)
            self._shards.group.send(self._pipeline.build_step(batch, self._records, now), now)

    def _watch_drafts(self, batch: ScheduledBatch) -> None:
        if self._draft_watch and self._draft_watch.observe(batch, self._records):
            rate = self._scheduler.status().acceptance_rate
            _log.warning("%s", self._draft_watch.warning(rate))

    def _handle_event(self, event: Event) -> None:
        match event:
            case Submitted(record, prompt_pages):
                self._on_submitted(record, prompt_pages)
            case CancelRequested(record):
                self._on_cancel_requested(record)
            case StepResult():
                self._on_step_result(event)
            case ShardGroupFailed():
                self._on_shards_failed()
            case ShardsRestarted(shards):
                self._on_shards_restarted(shards)

    def _on_submitted(self, record: LiveRequest, prompt_pages: PromptPages) -> None:
        if record.id not in self._records:
            return  # cancelled before it was submitted
        try:
            self._scheduler.submit(self._pipeline.add(record, prompt_pages), record.queued)
        except ValueError as fault:  # it can never fit into the KV cache
            record.fail(ValidationError(str(fault)), self._clock())
            self._remove(record)

    def _on_shards_failed(self) -> None:
        self._abort_steps()
        self._scheduler.reset()
        self._metrics.shards_failed()

    def _on_shards_restarted(self, shards: ShardGroup) -> None:
        self._shards.replace(shards)
        self._metrics.shards_restarted()
        shards.set_listener(self._events.put)

    def _abort_steps(self) -> None:
        for method in self._pipeline.reset():
            self._metrics.step_aborted(method)

    def _remove(self, record: LiveRequest) -> None:
        self._records.pop(record.id, None)
        self._pipeline.remove(record.id)

    def _on_cancel_requested(self, record: LiveRequest) -> None:
        if record.id in self._records:  # it may have ended before this was read
            self._remove(record)
            self._scheduler.cancel(record.id, self._clock())

    def _on_step_result(self, result: StepResult) -> None:
        now, step = self._clock(), self._pipeline.complete(result)
        if self._step_log:
            self._step_log.write(step, self._records, now)
        for item in step.items:
            if item.end is not None:
                self._save_preemptions(item.id, now)
        self._scheduler.complete(step.outcomes, now)
        for item, outcome in zip(step.items, step.outcomes, strict=True):
            self._apply_row_result(item, outcome.seconds, now)
        rows = len(step.items)
        self._metrics.step_completed(step.method, rows, step.seconds, mixed=step.mixed)
        self._metrics.step_detokenized(step.method, self._clock() - now)

    def _save_preemptions(self, id: int, now: float) -> None:
        """Copy the counts of a request that is about to end from the scheduler."""
        record, status = self._records.get(id), self._scheduler.request_status(id, now)
        if record is not None and status is not None:
            record.preemptions = status.preemptions

    def _apply_row_result(self, item: RowResult, seconds: float, now: float) -> None:
        record = self._records.get(item.id)
        if record is None:
            return  # it ended while the Step was in flight
        record.device_seconds += seconds
        if item.end is End.ERROR:
            record.fail(GenerationFailed(item.fault or "the model gave no usable result"), now)
        else:
            self._append_tokens(record, item, now)
            if record.mask_seconds > record.mask_budget:
                record.fail(GenerationFailed("the grammar takes too much time"), now)
        if record.is_live:
            return
        if item.end is None:  # a stop string or a spent budget, unknown to the shards
            self._save_preemptions(record.id, now)
            self._scheduler.cancel(record.id, now, api.RowEnded.STOP)
        self._remove(record)

    def _append_tokens(self, record: LiveRequest, item: RowResult, now: float) -> None:
        previous = record.last_token
        kept = record.apply(item, now)
        if 0 < kept < len(record.tokens):
            self._metrics.tokens_emitted(kept, now - previous)
        if item.drafted:
            self._metrics.tokens_drafted(item.drafted, item.accepted)

    def _fail_all(self) -> None:
        self._failed = True
        self._shards.close()
        for record in self._records.values():
            record.fail(GenerationFailed("the model's processes were lost"), self._clock())
        self._abort_steps()
