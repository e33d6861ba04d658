"""The shards in virtual time: rows whose answers are known, and what Steps do to them and cost.

Rule: it does what a Batch says, and checks what the shards would check: a row decodes only with all
its KV, and is fed no more than it has. What it knows runs ahead of the scheduler by the Steps in
flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.simulation.step_costs import StepCosts, StepWork
from benchmark.simulation.traces import Trace, agreement_runs
from router.scheduler.api import Outcome, RowEnded, ScheduledBatch

NORMAL_LAG = 2
"""Missed tokens that a draft takes in at no extra cost."""


class ContractViolation(RuntimeError):
    """The scheduler asked for what no shard could do, or stopped with work left."""


@dataclass(slots=True, eq=False)
class _SimulatedRow:
    """A live request on the device. What the device knows runs ahead of the scheduler."""

    agreement_runs: bytes
    length: int
    max_new: int
    known: int
    emitted: int = 0
    cached: int = 0
    lag: int = 0
    """Tokens emitted since it last drafted."""


RowOutcome = tuple[int, int, int, int, int, RowEnded | None]
"""Id, prefilled, drafted, accepted, emitted, end."""


class SimulatedDevice:
    """Rows and what Steps do to them."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._rows: dict[int, _SimulatedRow] = {}
        self._held_rows: set[int] = set()
        """Rows in the shards' table."""
        self.steps = self.moved = 0
        self.busy = 0.0

    def add_request(self, id: int, trace: Trace) -> None:
        """A request whose answer will be wanted."""
        self._rows[id] = _SimulatedRow(
            agreement_runs(trace.agrees), trace.length, trace.max_new, trace.prompt_tokens
        )

    def execute(self, batch: ScheduledBatch) -> tuple[list[Outcome], float]:
        """Do one Step: what it did for each row that had not ended before, and its seconds."""
        if batch.release or batch.evict or batch.swap_out:
            self._remove_rows(batch)
        moved = self._moved_tokens(batch) if batch.swap_out or batch.swap_in else 0
        for id, cached, _ in batch.start:
            self._add_row(id, cached)
        rows = drafts = longest = context = prefill = prefilling = missed = 0
        done: list[RowOutcome] = []
        for id, chunk, draft in batch.run:
            row = self._rows.get(id)
            if row is None:
                continue  # it ended while this Step was planned
            if id not in self._held_rows:
                self._add_row(id, 0)
            if chunk:
                prefill += chunk
                prefilling += 1
                done.append(_prefill(row, id, chunk))
            else:
                draft = min(draft, row.max_new - row.emitted - 1)
                rows += 1
                drafts += draft
                longest = max(longest, draft)
                context += row.known
                missed += row.lag if draft and row.lag > NORMAL_LAG else 0
                done.append(_decode_round(row, id, draft))
            if done[-1][5] is not None:
                del self._rows[id]
        if not done and not moved:
            return [], 0.0
        work = StepWork(rows, drafts, longest, context, prefill, prefilling, missed, moved)
        seconds = self._costs.seconds(work)
        self.steps += 1
        self.busy += seconds
        self.moved += moved
        return _outcomes(done, seconds), seconds

    def _add_row(self, id: int, cached: int) -> None:
        """A row comes into the table, to run now or once its KV is back."""
        self._held_rows.add(id)
        if id in self._rows:
            self._rows[id].cached = cached

    def _remove_rows(self, batch: ScheduledBatch) -> None:
        """Rows leave the table; what they held is gone, or on the host."""
        for id in batch.release:
            self._held_rows.discard(id)
        for id in (*batch.evict, *(swap.id for swap in batch.swap_out)):
            self._held_rows.remove(id)

    def _moved_tokens(self, batch: ScheduledBatch) -> int:
        return 16 * sum(len(swap.pages) for swap in (*batch.swap_out, *batch.swap_in))


def _prefill(row: _SimulatedRow, id: int, chunk: int) -> RowOutcome:
    """Compute the KV of `chunk` known tokens; after the last known one comes a new one."""
    row.cached += chunk
    if row.cached > row.known:
        raise ContractViolation(f"row {id} has no {row.cached} tokens to prefill")
    if row.cached < row.known:
        return id, chunk, 0, 0, 0, None
    row.lag += 1
    return id, chunk, 0, 0, *_emit(row, 1)


def _decode_round(row: _SimulatedRow, id: int, draft: int) -> RowOutcome:
    """Draft and verify."""
    if row.cached != row.known - 1:
        raise ContractViolation(
            f"row {id} cannot decode: {row.cached} of {row.known} tokens are cached"
        )
    accepted = min(row.agreement_runs[row.emitted], draft)
    emitted, end = _emit(row, accepted + 1)
    row.lag = 0 if draft else row.lag + emitted
    row.cached = row.known - 1
    return id, 0, draft, min(accepted, emitted), emitted, end


def _emit(row: _SimulatedRow, limit: int) -> tuple[int, RowEnded | None]:
    emitted = min(limit, row.length - row.emitted)
    row.emitted += emitted
    row.known += emitted
    if row.emitted < row.length:
        return emitted, None
    return emitted, RowEnded.EOS if row.length < row.max_new else RowEnded.LENGTH


def _outcomes(done: Sequence[RowOutcome], seconds: float) -> list[Outcome]:
    share = seconds / max(1, len(done))
    return [
        Outcome(id, prefilled, drafted, accepted, emitted, share, end)
        for id, prefilled, drafted, accepted, emitted, end in done
    ]
