"""The books between scheduler and shards: rows that are held, names of pages, Steps on their way.

A Batch enters and a numbered Step leaves; a result enters and the rows that it speaks of leave.
Decides nothing and reads no clock; how the words translate is the business of `steps`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.dispatch import step_messages
from router.dispatch.page_hashes import PageNames
from router.requests.record import Record
from router.requests.request import Request
from router.scheduler.api import Batch, Job, Outcome
from shard.wire.protocol import Item, Step, StepResult


@dataclass(frozen=True, slots=True)
class Landed:
    """What one Step did."""

    method: str
    """Its label in TGI's metrics."""
    joined: bool
    """Whether it had prompts beside rows that decode."""
    sent: float
    """When, by the dispatcher's clock."""
    seconds: float
    """Of the device."""
    items: tuple[Item, ...]
    """Of the rows that had not ended before."""
    outcomes: Sequence[Outcome]
    """The same for the scheduler, in the same order."""


Named = tuple[PageNames | None, tuple[int, ...]]
"""The names of a request's pages as they go on, and those of the prompt's."""


class Pipeline:
    """Rows and Steps of one group of shards, whose pages hold `page_size` tokens."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._names: dict[int, PageNames] = {}
        """Of the pages of the requests that the scheduler knows."""
        self._held: set[int] = set()
        """Rows that the shards hold."""
        self._flights: deque[tuple[Step, float]] = deque()
        self._number = 0

    def name(self, request: Request, prompt: Sequence[int]) -> Named:
        """Names of the prompt's pages; a prompt that is to be told has to be computed, too.

        Changes nothing here, and takes long for long prompts.
        """
        if request.report.prompt:
            return None, ()
        names = PageNames(self._page_size, request.cache_salt or "")
        return names, names.add(prompt)

    def enter(self, record: Record, named: Named) -> Job:
        """The job of a request that wants to run."""
        wish = record.request
        names, hashes = named
        if names is not None:
            self._names[record.id] = names
        return Job(
            id=record.id,
            arrived=record.queued,
            prompt=len(record.prompt),
            max_new=record.max_new,
            expected=wish.expected_new_tokens,
            speculate=wish.speculate,
            hashes=hashes,
            priority=wish.priority,
            tenant=wish.tenant,
            route=wish.route,
        )

    def leave(self, id: int) -> None:
        """The scheduler knows the request no longer."""
        self._names.pop(id, None)

    def send(self, batch: Batch, records: Mapping[int, Record], now: float) -> Step:
        """The next Step; `records` are the live requests."""
        held = self._held.difference(step_messages.gone(batch))
        fresh = [records[id] for id in step_messages.named(batch) if id not in held]
        cached = {start.id: start.cached for start in batch.start}
        for record in fresh:
            record.plan(now, cached.get(record.id, 0))
        self._number += 1
        step = step_messages.step(self._number, batch, self._held, fresh)
        self._held = held.union(record.id for record in fresh)
        self._flights.append((step, now))
        return step

    def land(self, result: StepResult) -> Landed:
        """The oldest Step on its way is done; live rows' names follow their new tokens."""
        step, sent = self._flights.popleft()
        rows = step_messages.done(step, result)
        outcomes = step_messages.outcomes(rows, result.seconds, self._names)
        items = tuple(item for _, item in rows)
        return Landed(
            step_messages.method(step),
            step_messages.joined(step),
            sent,
            result.seconds,
            items,
            outcomes,
        )

    def lost(self) -> list[str]:
        """Labels of the Steps that will never land."""
        return [step_messages.method(step) for step, _ in self._flights]
