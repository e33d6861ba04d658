"""What a completed Step means: tokens and ends of requests, for the scheduler and the metrics.

Each row's result goes to its record, and an end that the shards do not know (a stop string, a spent
budget) to the scheduler. Reads no clock; which Step comes next is not known here.
"""

from __future__ import annotations

from router.dispatch.live_requests import LiveRequests
from router.dispatch.step_pipeline import CompletedStep
from router.errors import GenerationFailed
from router.observability.metrics import Metrics
from router.observability.recent_activity import RecentActivity
from router.requests.record import LiveRequest
from router.scheduler.api import RowEnded, Scheduler
from shard.wire.protocol import End, RowResult


class StepResults:
    """Applies completed Steps to `records`, in their order."""

    def __init__(self, scheduler: Scheduler, records: LiveRequests, metrics: Metrics) -> None:
        self._scheduler, self._records, self._metrics = scheduler, records, metrics
        self.activity = RecentActivity()

    def apply(self, step: CompletedStep, now: float) -> list[LiveRequest]:
        """Apply `step`; return the requests that have ended with it."""
        for item in step.items:
            if item.end is not None:
                self._save_preemptions(item.id, now)
        self._scheduler.complete(step.outcomes, now)
        ended = [
            self._apply_row_result(item, outcome.seconds, now)
            for item, outcome in zip(step.items, step.outcomes, strict=True)
        ]
        rows = len(step.items)
        self._metrics.step_completed(step.method, rows, step.seconds, mixed=step.mixed)
        return [record for record in ended if record is not None]

    def _save_preemptions(self, id: int, now: float) -> None:
        """Copy the counts of a request that is about to end from the scheduler."""
        record, status = self._records.get(id), self._scheduler.request_status(id, now)
        if record is not None and status is not None:
            record.preemptions = status.preemptions

    def _apply_row_result(self, item: RowResult, seconds: float, now: float) -> LiveRequest | None:
        """Return the request if it has ended."""
        record = self._records.get(item.id)
        if record is None:
            return None  # it ended while the Step was in flight
        record.device_seconds += seconds
        if item.end is End.ERROR:
            record.fail(GenerationFailed(item.fault or "the model gave no usable result"), now)
        else:
            self._append_tokens(record, item, now)
            if record.mask_seconds > record.mask_budget:
                record.fail(GenerationFailed("the grammar takes too much time"), now)
        if record.is_live:
            return None
        if item.end is None:  # a stop string or a spent budget, unknown to the shards
            self._save_preemptions(record.id, now)
            self._scheduler.cancel(record.id, now, RowEnded.STOP)
        return record

    def _append_tokens(self, record: LiveRequest, item: RowResult, now: float) -> None:
        previous = record.last_token
        kept = record.apply(item, now)
        if 0 < kept < len(record.tokens):
            self._metrics.tokens_emitted(kept, now - previous)
            self.activity.add_next(kept, now - previous, now)
        elif kept:
            self._metrics.first_tokens_emitted(len(record.prompt), kept)
            self.activity.add_first(kept, now - record.arrived, now)
        if item.drafted:
            self._metrics.tokens_drafted(item.drafted, item.accepted, item.drafter)
