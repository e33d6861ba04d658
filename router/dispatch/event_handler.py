"""What each event changes: live requests, the scheduler, Steps in flight, and who is served next.

Every request gets exactly one end here. If the shards fail, live requests wait for the next group,
which computes their prompts and the tokens so far again; then they go on as if nothing had
happened, but for one that fails them each time (`quarantine`). When an event is handled, and what
is sent to the shards after it, is decided by the dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from router.dispatch.adapter_loads import AdapterLoads
from router.dispatch.current_shards import CurrentShards
from router.dispatch.events import (
    CancelRequested,
    ClientCaughtUp,
    Event,
    ShardsRestarted,
    Submitted,
)
from router.dispatch.live_requests import LiveRequests
from router.dispatch.page_hashes import PromptPages
from router.dispatch.paused_streams import PausedStreams
from router.dispatch.quarantine import Quarantine
from router.dispatch.queue_wait import QueueWait
from router.dispatch.step_log import StepLog
from router.dispatch.step_pipeline import StepPipeline
from router.dispatch.step_results import StepResults
from router.errors import EngineFault, RouterError, ValidationError
from router.observability.metrics import Metrics
from router.requests.record import LiveRequest
from router.scheduler.api import Scheduler
from router.shards.group import ShardGroupFailed
from shard.wire.protocol import StepResult


@dataclass(slots=True)
class EventHandler:
    """Applies events to the parts of one dispatcher; `_put` queues an event for it."""

    _clock: Callable[[], float]
    _scheduler: Scheduler
    _shards: CurrentShards
    _records: LiveRequests
    _pipeline: StepPipeline
    _results: StepResults
    _paused: PausedStreams
    _adapters: AdapterLoads
    _wait: QueueWait
    _metrics: Metrics
    _step_log: StepLog | None
    _put: Callable[[Event], None]
    _quarantine: Quarantine[int] = field(default_factory=Quarantine)
    change_count: int = 0
    """Grows when a request comes or goes, and when the shards fail or are replaced."""

    def handle(self, event: Event) -> None:
        """Apply an event."""
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

    def resume_streams(self) -> None:
        """Submit what is left of those whose clients have caught up."""
        in_flight = self._pipeline.rows_in_flight() if self._paused else ()
        for record in self._paused.resume_read(in_flight):
            self._scheduler.submit(self._pipeline.job(record), self._clock())

    def refuse_overdue(self) -> None:
        """End the requests that have waited too long for their first Step."""
        self._end_with_errors(self._wait.refuse_overdue(self._clock()))

    def fail_all(self, error: RouterError) -> None:
        """End every live request with `error`; no further Step's result comes."""
        for record in self._records.values():
            record.fail(error, self._clock())
        self._abort_steps()

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
        event.shards.set_listener(self._put)

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

    def _end_with_errors(self, refused: Iterable[tuple[LiveRequest, RouterError]]) -> None:
        for record, error in refused:
            record.fail(error, self._clock())
            self._on_cancel_requested(record)

    def _abort_steps(self) -> None:
        for method in self._pipeline.reset():
            self._metrics.step_aborted(method)
