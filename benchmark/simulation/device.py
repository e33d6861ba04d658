"""The shards in virtual time: rows whose answers are known, and what Steps do to them and cost.

Rule: it does what a Batch says, and checks what the shards would check: a row decodes only with all
its KV, and is fed no more than it has. What it knows runs ahead of the scheduler by the Steps in
flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.simulation.step_costs import StepCosts, Work
from benchmark.simulation.traces import Trace, runs
from router.scheduler.api import Batch, End, Outcome

ORDINARY = 2
"""Missed tokens that a draft takes in at no extra cost."""


class Broken(RuntimeError):
    """The scheduler asked for what no shard could do, or stopped with work left."""


@dataclass(slots=True, eq=False)
class _Row:
    """A live request on the device. What the device knows runs ahead of the scheduler."""

    ahead: bytes
    length: int
    longest: int
    known: int
    emitted: int = 0
    cached: int = 0
    lag: int = 0
    """Tokens emitted since it last drafted."""


Done = tuple[int, int, int, int, int, End | None]
"""Id, prefilled, drafted, accepted, emitted, end."""


class Device:
    """Rows and what Steps do to them."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._rows: dict[int, _Row] = {}
        self._held: set[int] = set()
        """Rows in the shards' table."""
        self.steps = self.moved = 0
        self.busy = 0.0

    def expect(self, id: int, trace: Trace) -> None:
        """A request whose answer will be wanted."""
        self._rows[id] = _Row(runs(trace.agrees), trace.length, trace.max_new, trace.prompt)

    def execute(self, batch: Batch) -> tuple[list[Outcome], float]:
        """Do one Step: what it did for each row that had not ended before, and its seconds."""
        if batch.release or batch.evict or batch.swap_out:
            self._drop(batch)
        moved = self._moved(batch) if batch.swap_out or batch.swap_in else 0
        for id, cached, _ in batch.start:
            self._enter(id, cached)
        rows = drafts = longest = context = prefill = prefilling = missed = 0
        done: list[Done] = []
        for id, chunk, draft in batch.run:
            row = self._rows.get(id)
            if row is None:
                continue  # it ended while this Step was planned
            if id not in self._held:
                self._enter(id, 0)
            if chunk:
                prefill += chunk
                prefilling += 1
                done.append(_feed(row, id, chunk))
            else:
                draft = min(draft, row.longest - row.emitted - 1)
                rows += 1
                drafts += draft
                longest = max(longest, draft)
                context += row.known
                missed += row.lag if draft and row.lag > ORDINARY else 0
                done.append(_round(row, id, draft))
            if done[-1][5] is not None:
                del self._rows[id]
        if not done and not moved:
            return [], 0.0
        work = Work(rows, drafts, longest, context, prefill, prefilling, missed, moved)
        seconds = self._costs.seconds(work)
        self.steps += 1
        self.busy += seconds
        self.moved += moved
        return _outcomes(done, seconds), seconds

    def _enter(self, id: int, cached: int) -> None:
        """A row comes into the table, to run now or once its KV is back."""
        self._held.add(id)
        if id in self._rows:
            self._rows[id].cached = cached

    def _drop(self, batch: Batch) -> None:
        """Rows leave the table; what they held is gone, or on the host."""
        for id in batch.release:
            self._held.discard(id)
        for id in (*batch.evict, *(swap.id for swap in batch.swap_out)):
            self._held.remove(id)

    def _moved(self, batch: Batch) -> int:
        return 16 * sum(len(swap.pages) for swap in (*batch.swap_out, *batch.swap_in))


def _feed(row: _Row, id: int, chunk: int) -> Done:
    """Compute the KV of `chunk` known tokens; after the last known one comes a new one."""
    row.cached += chunk
    if row.cached > row.known:
        raise Broken(f"row {id} has no {row.cached} tokens to prefill")
    if row.cached < row.known:
        return id, chunk, 0, 0, 0, None
    row.lag += 1
    return id, chunk, 0, 0, *_emit(row, 1)


def _round(row: _Row, id: int, draft: int) -> Done:
    """Draft and verify."""
    if row.cached != row.known - 1:
        raise Broken(f"row {id} cannot decode: {row.cached} of {row.known} tokens are cached")
    accepted = min(row.ahead[row.emitted], draft)
    emitted, end = _emit(row, accepted + 1)
    row.lag = 0 if draft else row.lag + emitted
    row.cached = row.known - 1
    return id, 0, draft, min(accepted, emitted), emitted, end


def _emit(row: _Row, most: int) -> tuple[int, End | None]:
    emitted = min(most, row.length - row.emitted)
    row.emitted += emitted
    row.known += emitted
    if row.emitted < row.length:
        return emitted, None
    return emitted, End.EOS if row.length < row.longest else End.LENGTH


def _outcomes(done: Sequence[Done], seconds: float) -> list[Outcome]:
    share = seconds / max(1, len(done))
    return [
        Outcome(id, prefilled, drafted, accepted, emitted, share, end)
        for id, prefilled, drafted, accepted, emitted, end in done
    ]
