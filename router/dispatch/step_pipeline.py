"""The books between scheduler and shards: rows that are held, names of pages, Steps on their way.

A Batch enters and a numbered Step leaves; a result enters and the rows that it speaks of leave.
Decides nothing and reads no clock; how the words translate is the business of `steps`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.dispatch import step_messages
from router.dispatch.page_hashes import PageHasher, PromptPages
from router.requests.record import LiveRequest
from router.scheduler.api import Job, Outcome, ScheduledBatch
from shard.wire.protocol import RowResult, Step, StepResult


@dataclass(frozen=True, slots=True)
class CompletedStep:
    """What one Step did."""

    method: str
    """Its label in TGI's metrics."""
    mixed: bool
    """Whether it had prompts beside rows that decode."""
    sent_at: float
    """When, by the dispatcher's clock."""
    seconds: float
    """Of the device."""
    items: tuple[RowResult, ...]
    """Of the rows that had not ended before."""
    outcomes: Sequence[Outcome]
    """The same for the scheduler, in the same order."""


class StepPipeline:
    """Rows and Steps of one group of shards."""

    def __init__(self) -> None:
        self._page_hashers: dict[int, PageHasher] = {}
        """Of the requests that the scheduler knows, by id."""
        self._held_rows: set[int] = set()
        """Rows that the shards hold."""
        self._in_flight: deque[tuple[Step, float]] = deque()
        self._last_number = 0

    def add(self, record: LiveRequest, prompt_pages: PromptPages) -> Job:
        """The scheduler's job for a submitted request."""
        request = record.request
        if prompt_pages.hasher is not None:
            self._page_hashers[record.id] = prompt_pages.hasher
        return Job(
            id=record.id,
            arrived=record.queued,
            prompt=len(record.prompt),
            max_new=record.max_new,
            expected=request.expected_new_tokens,
            speculate=request.speculate,
            hashes=prompt_pages.hashes,
            priority=request.priority,
            tenant=request.tenant,
            route=request.route,
        )

    def remove(self, id: int) -> None:
        """The scheduler knows the request no longer."""
        self._page_hashers.pop(id, None)

    def build_step(
        self, batch: ScheduledBatch, records: Mapping[int, LiveRequest], now: float
    ) -> Step:
        """The next Step; `records` are the live requests."""
        held = self._held_rows.difference(step_messages.removed_rows(batch))
        fresh = [records[id] for id in step_messages.held_rows(batch) if id not in held]
        cached = {start.id: start.cached for start in batch.start}
        for record in fresh:
            record.mark_scheduled(now, cached.get(record.id, 0))
        self._last_number += 1
        step = step_messages.to_step(self._last_number, batch, self._held_rows, fresh)
        self._held_rows = held.union(record.id for record in fresh)
        self._in_flight.append((step, now))
        return step

    def complete(self, result: StepResult) -> CompletedStep:
        """The oldest Step on its way is done; live rows' names follow their new tokens."""
        step, sent = self._in_flight.popleft()
        rows = step_messages.completed_rows(step, result)
        outcomes = step_messages.to_outcomes(rows, result.seconds, self._page_hashers)
        items = tuple(item for _, item in rows)
        return CompletedStep(
            step_messages.metrics_method(step),
            step_messages.is_mixed(step),
            sent,
            result.seconds,
            items,
            outcomes,
        )

    def abort(self) -> list[str]:
        """Labels of the Steps that will never land."""
        return [step_messages.metrics_method(step) for step, _ in self._in_flight]
