"""The one loop between requests, scheduler and shards.

It fills the pipeline, takes one event and applies it, as the simulator does. `admission` decides
how many requests there are, the scheduler what runs, and the `event_handler` what an event changes.
Who starts groups of shards is not known here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf

from router.dispatch.adapter_loads import AdapterLoads
from router.dispatch.admission import Admission
from router.dispatch.current_shards import CurrentShards, checking_health
from router.dispatch.dispatcher_view import DispatcherView
from router.dispatch.draft_watch import DraftWatch
from router.dispatch.event_handler import EventHandler
from router.dispatch.events import (
    CancelRequested,
    ClientCaughtUp,
    EventQueue,
    ShardsRestarted,
    Submitted,
)
from router.dispatch.live_requests import LiveRequests, PreparedRequest
from router.dispatch.paused_streams import PausedStreams
from router.dispatch.queue_wait import QueueWait
from router.dispatch.step_log import StepLog
from router.dispatch.step_pipeline import StepPipeline
from router.dispatch.step_results import StepResults
from router.errors import (
    Cancelled,
    GenerationFailed,
    Unavailable,
)
from router.observability.metrics import Metrics
from router.requests.adapters import AdapterRegistry
from router.requests.record import LiveRequest
from router.scheduler.api import ScheduledBatch, Scheduler
from router.shards.group import ShardGroup
from router.text.tokenizer import Tokenizer

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
        self._clock = clock
        self._draft_watch = draft_watch
        self._adapters = AdapterLoads(AdapterRegistry()) if adapters is None else adapters
        self._pipeline = StepPipeline()
        self._events = EventQueue()
        self._records = LiveRequests(tokenizer)
        self._wait = QueueWait(scheduler, self._shards, self._records, max_queue_seconds)
        self._admission = Admission(
            permits, lambda missing: self._wait.seconds_until_ended(missing, clock())
        )
        results = StepResults(scheduler, self._records, metrics)
        paused = PausedStreams(max_unread_tokens, lambda: self._events.put(ClientCaughtUp()))
        self._handler = EventHandler(
            clock,
            scheduler,
            self._shards,
            self._records,
            self._pipeline,
            results,
            paused,
            self._adapters,
            self._wait,
            metrics,
            log,
            self._events.put,
        )
        self.view = DispatcherView(
            clock,
            scheduler,
            self._shards,
            self._records,
            self._admission,
            results,
            metrics,
            paused,
        )
        """What the server is doing."""
        self.adapters = self._adapters.registry
        """The adapters that requests may choose."""

    @property
    def change_count(self) -> int:
        """Grows when a request comes or goes, and when the shards fail or are replaced."""
        return self._handler.change_count

    async def run(self) -> None:
        """Serve until cancelled; every live request then ends with an error."""
        self._shards.group.set_listener(self._events.put)
        try:
            while True:
                self._handler.resume_streams()
                self._fill_pipeline()
                event = await self._events.get()
                self._shards.group.check_health(self._clock())
                if event is not None:
                    self._handler.handle(event)
                self._handler.refuse_overdue()
        finally:
            self._shards.close()
            self._handler.fail_all(GenerationFailed("the model's processes were lost"))

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
