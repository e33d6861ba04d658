"""State between scheduler and shards: rows that the shards hold, page hashers, Steps in flight.

A ScheduledBatch becomes a numbered Step; a StepResult becomes a CompletedStep. Decides nothing and
reads no clock; `step_messages` translates the messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.dispatch import step_messages
from router.dispatch.page_hashes import PageHasher, PromptPages
from router.requests.record import LiveRequest
from router.scheduler.api import Job, Outcome, ScheduledBatch
from shard.wire.protocol import MAX_FORCED_TOKENS, RowResult, Step, StepResult


@dataclass(frozen=True, slots=True)
class CompletedStep:
    """The result of one Step."""

    method: str
    """Its label in TGI's metrics."""
    mixed: bool
    """Whether it both prefilled and decoded."""
    sent_at: float
    """By the dispatcher's clock, in seconds."""
    seconds: float
    """Device time."""
    items: tuple[RowResult, ...]
    """Of the rows that had not ended before the Step."""
    outcomes: Sequence[Outcome]
    """The scheduler's form of `items`, in the same order."""

    @property
    def decoded(self) -> frozenset[int]:
        """Ids of the rows that decoded: those that were not prefilled."""
        return frozenset(outcome.id for outcome in self.outcomes if not outcome.prefilled)


class StepPipeline:
    """Rows and Steps of the group of shards that serves."""

    def __init__(self) -> None:
        self._page_hashers: dict[int, PageHasher] = {}
        """Of the requests that the scheduler knows, by id."""
        self._held_rows: set[int] = set()
        """Rows that the shards hold."""
        self._in_flight: deque[tuple[Step, float]] = deque()
        self._last_number = 0

    def add(self, record: LiveRequest, prompt_pages: PromptPages) -> Job:
        """The scheduler's job for a submitted request."""
        if prompt_pages.hasher is not None:
            self._page_hashers[record.id] = prompt_pages.hasher
        return self.job(record)

    def job(self, record: LiveRequest) -> Job:
        """The scheduler's job for what is left of a request that was added.

        The tokens that it has generated so far count as part of the prompt.
        """
        request, emitted = record.request, len(record.tokens)
        hasher, expected = self._page_hashers.get(record.id), request.expected_new_tokens
        return Job(
            id=record.id,
            arrived=record.queued,
            prompt=len(record.prompt) + emitted,
            max_new=record.max_new - emitted,
            expected=None if expected is None else max(1, expected - emitted),
            speculate=request.speculate,
            forced=MAX_FORCED_TOKENS if request.grammar and request.speculate != 0 else 0,
            hashes=() if hasher is None else hasher.hashes,
            priority=request.priority,
            tenant=request.tenant,
            route=request.route,
        )

    def remove(self, id: int) -> None:
        """Forget a request that the scheduler no longer knows."""
        self._page_hashers.pop(id, None)

    def build_step(
        self, batch: ScheduledBatch, records: Mapping[int, LiveRequest], now: float
    ) -> Step:
        """The next Step; `records` are the live requests."""
        held = self._held_rows.difference(step_messages.removed_rows(batch))
        entering = [records[id] for id in step_messages.held_rows(batch) if id not in held]
        cached = {start.id: start.cached for start in batch.start}
        for record in entering:
            record.mark_scheduled(now, cached.get(record.id, 0))
        self._last_number += 1
        step = step_messages.to_step(self._last_number, batch, self._held_rows, entering)
        self._held_rows = held.union(record.id for record in entering)
        self._in_flight.append((step, now))
        return step

    def complete(self, result: StepResult) -> CompletedStep:
        """Complete the oldest Step in flight; live rows' page hashers advance by new tokens."""
        step, sent_at = self._in_flight.popleft()
        rows = step_messages.completed_rows(step, result)
        outcomes = step_messages.to_outcomes(rows, result.seconds, self._page_hashers)
        items = tuple(item for _, item in rows)
        return CompletedStep(
            step_messages.metrics_method(step),
            step_messages.is_mixed(step),
            sent_at,
            result.seconds,
            items,
            outcomes,
        )

    def rows_in_flight(self) -> frozenset[int]:
        """Ids of the rows that are in Steps in flight, as new ones or to run."""
        steps = [step for step, _ in self._in_flight]
        running = (work.id for step in steps for work in step.run)
        return frozenset((*running, *(row.id for step in steps for row in step.new)))

    def reset(self) -> list[str]:
        """Begin again with a group that holds nothing, whose first Step is number 1.

        Returns the metrics labels of the Steps in flight, which will never complete.
        """
        aborted = [step_messages.metrics_method(step) for step, _ in self._in_flight]
        self._held_rows = set()
        self._in_flight.clear()
        self._last_number = 0
        return aborted
