"""The one loop between requests, scheduler and shards.

It fills the pipeline, takes one event and applies it, as the simulator does. It alone reads the
clock and calls the scheduler. `admission` decides how many requests there are, the scheduler what
runs; here every request gets exactly one end. If the shards fail, live requests wait for the next
group, which computes their prompts and the tokens so far again; then they go on as if nothing had
happened, but for one that fails them each time (`quarantine`). Who starts groups is not known here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf

from router.dispatch.adapter_loads import AdapterLoads
from router.dispatch.admission import Admission
from router.dispatch.current_shards import CurrentShards, checking_health
from router.dispatch.dispatcher_view import DispatcherView
from router.dispatch.draft_watch import DraftWatch
from router.dispatch.events import (
    CancelRequested,
    ClientCaughtUp,
    Event,
    EventQueue,
    ShardsRestarted,
    Submitted,
)
from router.dispatch.live_requests import LiveRequests, PreparedRequest
from router.dispatch.page_hashes import PromptPages
from router.dispatch.paused_streams import PausedStreams
from router.dispatch.quarantine import Quarantine
from router.dispatch.queue_wait import QueueWait
from router.dispatch.step_log import StepLog
from router.dispatch.step_pipeline import StepPipeline
from router.dispatch.step_results import StepResults
from router.errors import (
    Cancelled,
    EngineFault,
    GenerationFailed,
    RouterError,
    Unavailable,
    ValidationError,
)
from router.observability.metrics import Metrics
from router.requests.adapters import AdapterRegistry
from router.requests.record import LiveRequest
from router.scheduler.api import ScheduledBatch, Scheduler
from router.shards.group import ShardGroup, ShardGroupFailed
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import StepResult

_log = logging.getLogger(__name__)


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
        max_queue_seconds: float = inf,
        load_seconds: float = 0.0,
        max_unread_tokens: float = inf,
        adapters: AdapterLoads | None = None,
    ) -> None:
        """`draft_watch` is None if nothing is ever drafted, `adapters` if there are none.

        `max_queue_seconds`: maximum wait for the first Step. `load_seconds`: what a start of the
        shards takes. `max_unread_tokens`: of a stream, before it is paused.
        """
        self._scheduler = scheduler
        self._shards = CurrentShards(shards, load_seconds)
        self._metrics = metrics
        self._clock = clock
        self._step_log = log
        self._draft_watch = draft_watch
        self._adapters = AdapterLoads(AdapterRegistry()) if adapters is None else adapters
        self._pipeline = StepPipeline()
        self._events = EventQueue()
        self._records = LiveRequests(tokenizer)
        self._wait = QueueWait(scheduler, self._shards, self._records, max_queue_seconds)
        self._admission = Admission(
            permits, lambda missing: self._wait.seconds_until_ended(missing, clock())
        )
        self._results = StepResults(scheduler, self._records, metrics)
        self._quarantine: Quarantine[int] = Quarantine()
        self._paused = PausedStreams(
            max_unread_tokens, lambda record: self._events.put(ClientCaughtUp(record))
        )
        self.view = DispatcherView(
            clock,
            scheduler,
            self._shards,
            self._records,
            self._admission,
            self._results,
            metrics,
            self._paused,
        )
        """What the server is doing."""
        self.adapters = self._adapters.registry
        """The adapters that requests may choose."""
        self.change_count = 0
        """Grows when a request comes or goes, and when the shards fail or are replaced."""

    async def run(self) -> None:
        """Serve until cancelled; every live request then ends with an error."""
        self._shards.group.set_listener(self._events.put)
        try:
            while True:
                self._resume_streams()
                self._fill_pipeline()
                event = await self._events.get()
                self._shards.group.check_health(self._clock())
                if event is not None:
                    self._handle_event(event)
                self._end_with_errors(self._wait.refuse_overdue(self._clock()))
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
        """Wait until every rank has compiled the grammar.

        Raises EngineFault if the shards fail each time that they do, and Unavailable at the end.
        """
        await self._shards.prepare_grammar(compiled)

    async def resume(self, shards: ShardGroup) -> None:
        """Go on with `shards`, after those before have failed; live requests are sent to them.

        Returns when they have compiled all grammars that rows need, or have failed.
        """
        async with checking_health(shards, self._clock):
            lost = await self._adapters.prepare_successor(shards)
            await self._shards.prepare_successor(shards, self._records.grammars())
        self._events.put(ShardsRestarted(shards, tuple(lost)))

    async def load_adapter(self, name: str, path: str) -> None:
        """Serve the adapter in folder `path` as `name`. Raises AdapterRefused or Unavailable."""
        self._require_running()
        await self._adapters.load(self._shards.group, name, path)

    def unload_adapter(self, name: str) -> None:
        """Take no further request for the adapter `name`. Raises AdapterNotFound."""
        self._adapters.unload(self._shards.group, name)

    @contextmanager
    def start(self, prepared: PreparedRequest) -> Iterator[LiveRequest]:
        """Queue a request; leaving the `with` is its only exit, and cancels it if it still runs.

        Raises Unavailable if the dispatcher has ended, and ValidationError if the request's adapter
        has just been unloaded.
        """
        self._require_running()  # else no event is ever handled
        self._adapters.acquire(prepared.request.adapter)
        record = self._records.add(prepared, self._clock())
        self._events.put(Submitted(record, prepared.pages))
        try:
            yield record
        finally:
            if record.is_live:
                self._events.put(CancelRequested(record))

    async def wait_in_queue(self, record: LiveRequest) -> None:
        """Return once a refusal for the wait is impossible. Raises RouterError if it is refused."""
        if self._wait.is_limited:
            await record.wait_scheduled()

    def cancel(self, request_id: str, caller: str = "") -> int:
        """End the live sequences of `request_id` with Cancelled; return their number.

        If several HTTP requests of `caller` have that id, only the newest is cancelled. Those of
        other callers are never meant.
        """
        cancelled = self._records.newest(request_id, caller)
        for record in cancelled:
            record.fail(Cancelled(), self._clock())
            self._events.put(CancelRequested(record))
        return len(cancelled)

    async def drain(self) -> None:
        """Refuse new requests and wait until no permit is held."""
        await self._admission.drain()

    def _require_running(self) -> None:
        if self._shards.closed:
            raise Unavailable("Model is unavailable")

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
            case ClientCaughtUp():
                pass  # streams go on before the next Step is built, whatever has happened
            case CancelRequested(record):
                self._on_cancel_requested(record)
            case StepResult():
                self._on_step_result(event)
            case ShardGroupFailed():
                self._on_shards_failed(event)
            case ShardsRestarted():
                self._on_shards_restarted(event)

    def _on_submitted(self, record: LiveRequest, prompt_pages: PromptPages) -> None:
        if record.id not in self._records:
            return  # cancelled before it was submitted
        self.change_count += 1
        try:
            self._scheduler.submit(self._pipeline.add(record, prompt_pages), record.queued)
        except ValueError as fault:  # it can never fit into the KV cache
            record.fail(ValidationError(str(fault)), self._clock())
            self._remove(record)
        else:
            self._end_with_errors(self._wait.refuse_arrival(record, self._clock()))

    def _end_with_errors(self, refused: Iterable[tuple[LiveRequest, RouterError]]) -> None:
        for record, error in refused:
            record.fail(error, self._clock())
            self._on_cancel_requested(record)

    def _on_shards_failed(self, failure: ShardGroupFailed) -> None:
        self._shards.mark_failed(failure.preparing, self._clock())
        running = self._pipeline.rows_in_flight() & self._records.keys() - set(self._paused)
        self._abort_steps()
        self._scheduler.reset()
        self._metrics.shards_failed()
        self.change_count += 1
        self._set_quarantine(self._quarantine.after_failure(sorted(running)))
        self._end_with_errors([(record, EngineFault()) for record in self._given_up()])

    def _given_up(self) -> list[LiveRequest]:
        ids = self._quarantine.given_up
        return [
            record
            for record in self._records.values()
            if record.id in ids or self._shards.is_given_up(record.request.grammar)
        ]

    def _set_quarantine(self, quarantine: Quarantine[int]) -> None:
        if quarantine is not self._quarantine:
            self._quarantine = quarantine
            self._scheduler.isolate(quarantine.on_trial)

    def _on_shards_restarted(self, event: ShardsRestarted) -> None:
        self._shards.replace(event.shards, self._clock())
        self._metrics.shards_restarted()
        self.change_count += 1
        self._end_with_errors(
            [
                (record, EngineFault())
                for record in self._records.values()
                if record.request.adapter in event.lost_adapters
            ]
        )
        event.shards.set_listener(self._events.put)

    def _abort_steps(self) -> None:
        for method in self._pipeline.reset():
            self._metrics.step_aborted(method)

    def _remove(self, record: LiveRequest) -> None:
        self.change_count += 1
        self._records.remove(record.id)
        self._paused.discard(record.id)
        self._adapters.release(self._shards.group, record.request.adapter)
        self._pipeline.remove(record.id)
        self._set_quarantine(self._quarantine.without((record.id,)))

    def _on_cancel_requested(self, record: LiveRequest) -> None:
        if record.id in self._records:  # it may have ended before this was read
            self._remove(record)
            self._scheduler.cancel(record.id, self._clock())

    def _on_step_result(self, result: StepResult) -> None:
        now, step = self._clock(), self._pipeline.complete(result)
        if self._step_log:
            self._step_log.write(step, self._records, now)
        for record in self._results.apply(step, now):
            self._remove(record)
        self._set_quarantine(self._quarantine.without(step.decoded))
        self._pause_streams(item.id for item in step.items)
        self._metrics.step_detokenized(step.method, self._clock() - now)

    def _pause_streams(self, ids: Iterable[int]) -> None:
        """Let the scheduler forget those whose clients are too far behind."""
        records = (self._records[id] for id in ids if id in self._records)
        for record in self._paused.pause_slow(records):
            self._scheduler.cancel(record.id, self._clock())

    def _resume_streams(self) -> None:
        """Submit what is left of those whose clients have caught up."""
        in_flight = self._pipeline.rows_in_flight() if self._paused else ()
        for record in self._paused.resume_read(in_flight):
            self._scheduler.submit(self._pipeline.job(record), self._clock())

    def _fail_all(self) -> None:
        self._shards.close()
        for record in self._records.values():
            record.fail(GenerationFailed("the model's processes were lost"), self._clock())
        self._abort_steps()
