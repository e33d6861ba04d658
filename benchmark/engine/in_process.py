"""The dispatcher's loop without sockets, text and tasks: scheduler and engine in one process.

Rule: decides nothing. It turns batches into Steps and results into outcomes with the router's
`step_messages`, as the dispatcher does, and keeps up to `depth` Steps planned. Like a shard, it
starts a Step before the previous one has completed, but first reports what has completed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from router.dispatch import step_messages
from router.dispatch.page_hashes import PageHasher
from router.scheduler.api import DeviceCapacity, Job, Scheduler
from shard.step_handle import StepHandle
from shard.wire.protocol import End, NewRow, Ready, Sampling, Step, StepResult


class StepStarter(Protocol):
    """The part of an engine that the loop drives."""

    def ready(self) -> Ready:
        """What it can hold."""

    def start(self, step: Step) -> StepHandle:
        """Begin one Step."""


@dataclass(slots=True)
class InProcessRequest:
    """One request and its results; times are readings of the loop's clock."""

    id: int
    prompt: tuple[int, ...]
    max_new: int
    sampling: Sampling = field(default_factory=Sampling)
    speculate: int | None = None
    grammar: str | None = None
    """Grammar of the output in llguidance's format."""
    forced: int = 0
    """Maximum number of tokens that the grammar forces in one Step."""
    emitted: list[int] = field(default_factory=list)
    end: End | None = None
    prefilled: int = 0
    """Prompt tokens that were computed, not taken from the prefix cache."""
    arrived: float = 0.0
    first_token: float = 0.0
    adapter: int = 0

    def to_row(self) -> NewRow:
        """Return the row with all tokens so far."""
        tokens = (*self.prompt, *self.emitted)
        return NewRow(
            id=self.id,
            tokens=tokens,
            prompt=len(self.prompt),
            max_new=self.max_new,
            ignore_eos=self.grammar is None,
            sampling=self.sampling,
            grammar=self.grammar,
            adapter=self.adapter,
        )


def device_capacity(ready: Ready, **changes: Any) -> DeviceCapacity:
    """The scheduler's view of an engine; `changes` replace fields."""
    plain = DeviceCapacity(
        pages=ready.pages,
        page_size=ready.page_size,
        max_rows=ready.max_rows,
        prefill_tokens=512,
        speculate=ready.speculate,
        draft_token_seconds=ready.draft_token_seconds,
        verify_seconds=ready.verify_seconds,
        host_pages=ready.host_pages,
        swap_token_seconds=ready.swap_token_seconds,
        prefill_token_seconds=ready.prefill_token_seconds,
        suffix=ready.suffix,
        suffix_costs=tuple((cell.rows, cell.draft, cell.seconds) for cell in ready.suffix_costs),
    )
    return replace(plain, **changes)


class InProcessLoop:
    """Serves requests on one engine, which must hold no rows at the start."""

    def __init__(
        self,
        engine: StepStarter,
        scheduler: Scheduler,
        depth: int = 2,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._scheduler = engine, scheduler
        self._depth, self._clock = depth, clock
        self._page_size = engine.ready().page_size
        self._requests: dict[int, InProcessRequest] = {}
        self._page_hashers: dict[int, PageHasher] = {}
        self._held_rows: set[int] = set()
        self._planned: deque[Step] = deque()
        self._in_flight: deque[tuple[Step, StepHandle]] = deque()
        self._number = 0

    def submit(self, request: InProcessRequest) -> None:
        """Queue `request`. Raises ValueError if it can never fit."""
        request.arrived = self._clock()
        hasher = PageHasher(self._page_size, adapter=request.adapter)
        hashes = hasher.add(request.prompt)
        length, cap = len(request.prompt), request.speculate
        job = Job(
            id=request.id,
            arrived=request.arrived,
            prompt=length,
            max_new=request.max_new,
            speculate=cap,
            hashes=hashes,
            forced=request.forced,
        )
        self._scheduler.submit(job, request.arrived)
        self._requests[request.id], self._page_hashers[request.id] = request, hasher

    def advance(self) -> bool:
        """Plan and start Steps, then complete the oldest. Return False if nothing is left to do."""
        self._plan()
        while self._planned and not (self._in_flight and self._in_flight[0][1].is_complete()):
            step = self._planned.popleft()
            self._in_flight.append((step, self._engine.start(step)))
        if not self._in_flight:
            return False
        step, handle = self._in_flight.popleft()
        self._complete(step, handle.result())
        return True

    def run(self) -> None:
        """Advance until every request has ended and its row is released."""
        while self.advance():
            pass

    def _plan(self) -> None:
        while len(self._planned) + len(self._in_flight) < self._depth:
            batch = self._scheduler.next_batch(self._clock())
            if batch is None:
                break
            held = self._held_rows.difference(step_messages.removed_rows(batch))
            fresh = [self._requests[id] for id in step_messages.held_rows(batch) if id not in held]
            self._number += 1
            self._planned.append(step_messages.to_step(self._number, batch, self._held_rows, fresh))
            self._held_rows = held.union(request.id for request in fresh)

    def _complete(self, step: Step, result: StepResult) -> None:
        now, rows = self._clock(), step_messages.completed_rows(step, result)
        self._scheduler.complete(
            step_messages.to_outcomes(rows, result.seconds, self._page_hashers), now
        )
        for run, item in rows:
            request = self._requests[run.id]
            request.prefilled += run.prefill
            request.first_token = request.first_token or (now if item.tokens else 0.0)
            request.emitted.extend(item.tokens)
            request.end = item.end
            if item.end is not None:
                del self._requests[run.id], self._page_hashers[run.id]
