"""The shards in virtual time: rows whose answers are known, what a Step does to them, and its time.

It does what a Batch says, and checks what the shards would check: a row decodes only with all of
its KV, and is fed no more than it has. What it knows is ahead of the scheduler by the Steps in
flight. The device of the scheduler's tests extends it with pages, and checks every rule of a Batch.
Decides nothing about order or arrivals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from benchmark.simulation.step_costs import StepWork
from router.scheduler.api import Job, Outcome, RowEnded, ScheduledBatch, ScheduledRow

NORMAL_LAG = 2
"""Missed tokens that a draft model takes in at no extra cost."""
PAGE_SIZE = 16
"""Tokens per page that is copied to or from the host."""


class ContractViolation(RuntimeError):
    """The scheduler asked for what no shard could do, or stopped with work left."""


class Answer(Protocol):
    """The true answer to a request."""

    @property
    def length(self) -> int:
        """Output tokens, at most the request's `max_new`."""

    def count_accepted(self, position: int, draft: int) -> int:
        """Return how many of `draft` tokens drafted at output `position` are accepted."""


class RowOutcome(NamedTuple):
    """What a Step did for one row; see `router.scheduler.api.Outcome`."""

    prefilled: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    end: RowEnded | None = None
    draft_cached: int = 0
    hashes: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class DeviceRow:
    """A request that has not ended on the device. Counts are in tokens."""

    answer: Answer
    max_new: int
    known: int
    """Prompt tokens and emitted ones."""
    emitted: int = 0
    cached: int = 0
    """Leading tokens whose KV the target holds."""
    lag: int = 0
    """Emitted since the row last drafted."""


class VirtualDevice:
    """Rows, and the Steps that are executed on them in order."""

    def __init__(self, seconds: Callable[[StepWork], float]) -> None:
        """`seconds`: device time of a Step that does this work."""
        self._seconds = seconds
        self._rows: dict[int, DeviceRow] = {}
        self._held_rows: set[int] = set()
        """Ids in the shards' table."""
        self._completed: deque[list[Outcome]] = deque()
        """Of the Steps in flight, which are executed when they are sent."""
        self.step_count = self.moved_tokens = 0
        self.busy_seconds = 0.0

    def add_request(self, job: Job, answer: Answer) -> None:
        """Add a request that the scheduler is about to get."""
        self._rows[job.id] = DeviceRow(answer, job.max_new, job.prompt)

    def send(self, batch: ScheduledBatch) -> float:
        """Put a Step in flight. Return its device time in seconds."""
        outcomes, seconds = self.execute(batch)
        self._completed.append(outcomes)
        return seconds

    def finish(self, now: float) -> list[Outcome]:
        """Return the outcomes of the oldest Step in flight, which is done `now`."""
        return self._completed.popleft()

    def execute(self, batch: ScheduledBatch) -> tuple[list[Outcome], float]:
        """Do one Step. Return an outcome for each of its rows, and its device time in seconds.

        A row that had ended before gets an empty outcome. Raises ContractViolation.
        """
        self._update_table(batch)
        runs = [self._within_limit(run) for run in batch.run if run.id in self._rows]
        seconds = self._step_seconds(batch, runs)
        done = {run.id: self._run_row(self._rows[run.id], run) for run in runs}
        for id, row in done.items():
            if row.end is not None:
                del self._rows[id]
        share = seconds / max(1, len(runs))
        return [_outcome(run.id, done.get(run.id), share) for run in batch.run], seconds

    def _within_limit(self, run: ScheduledRow) -> ScheduledRow:
        """What is really run of a row: it drafts no more than its answer may still need."""
        if run.id not in self._held_rows:
            self._add_row(run.id, 0)
        row = self._rows[run.id]
        return run._replace(draft=min(run.draft, row.max_new - row.emitted - 1))

    def _step_seconds(self, batch: ScheduledBatch, runs: Sequence[ScheduledRow]) -> float:
        """Return the device time of a Step, and count it; 0 if nothing is left to do."""
        moved = _moved_tokens(batch) if batch.swap_out or batch.swap_in else 0
        if not runs and not moved:
            return 0.0
        seconds = self._seconds(self._work(runs, moved))
        self.step_count += 1
        self.busy_seconds += seconds
        self.moved_tokens += moved
        return seconds

    def _work(self, runs: Sequence[ScheduledRow], moved: int) -> StepWork:
        """Return how much a Step is about to do."""
        rows = drafts = longest = context = prefill = missed = 0
        for run in runs:
            if run.prefill:
                prefill += run.prefill
            else:
                row = self._rows[run.id]
                rows += 1
                drafts += run.draft
                longest = max(longest, run.draft)
                context += row.known
                missed += row.lag if run.draft and row.lag > NORMAL_LAG else 0
        prefilling = len(runs) - rows
        return StepWork(rows, drafts, longest, context, prefill, prefilling, missed, moved)

    def _run_row(self, row: DeviceRow, run: ScheduledRow) -> RowOutcome:
        """Do what a Step does for one row."""
        return _prefill(row, run) if run.prefill else _decode_round(row, run)

    def _update_table(self, batch: ScheduledBatch) -> None:
        """Rows leave the table, with their KV lost or on the host, and others enter with KV."""
        for id in batch.release:
            self._held_rows.discard(id)
        for id in batch.evict:
            self._held_rows.remove(id)
        for swap in batch.swap_out:
            self._held_rows.remove(swap.id)
        for start in batch.start:
            self._add_row(start.id, start.cached)

    def _add_row(self, id: int, cached: int) -> None:
        self._held_rows.add(id)
        if id in self._rows:
            self._rows[id].cached = cached


def _moved_tokens(batch: ScheduledBatch) -> int:
    """Return the tokens whose KV a Batch copies to the host or back."""
    return PAGE_SIZE * sum(len(swap.pages) for swap in (*batch.swap_out, *batch.swap_in))


def _prefill(row: DeviceRow, run: ScheduledRow) -> RowOutcome:
    """Compute the KV of known tokens; after the last known one comes a new one."""
    row.cached += run.prefill
    if row.cached > row.known:
        raise ContractViolation(f"row {run.id} has no {row.cached} tokens to prefill")
    if row.cached < row.known:
        return RowOutcome(run.prefill)
    row.lag += 1
    emitted, end = _emit(row, 1)
    return RowOutcome(run.prefill, emitted=emitted, end=end)


def _decode_round(row: DeviceRow, run: ScheduledRow) -> RowOutcome:
    """Draft and verify."""
    if row.cached != row.known - 1:
        raise ContractViolation(
            f"row {run.id} cannot decode: {row.cached} of {row.known} tokens are cached"
        )
    accepted = row.answer.count_accepted(row.emitted, run.draft)
    emitted, end = _emit(row, accepted + 1)
    row.lag = 0 if run.draft else row.lag + emitted
    row.cached = row.known - 1
    return RowOutcome(0, run.draft, min(accepted, emitted), emitted, end)


def _emit(row: DeviceRow, limit: int) -> tuple[int, RowEnded | None]:
    length = row.answer.length
    emitted = min(limit, length - row.emitted)
    row.emitted += emitted
    row.known += emitted
    if row.emitted < length:
        return emitted, None
    return emitted, RowEnded.EOS if length < row.max_new else RowEnded.LENGTH


def _outcome(id: int, row: RowOutcome | None, share: float) -> Outcome:
    """`share`: device time in seconds of each row that did something."""
    if row is None:
        return Outcome(id, 0, 0, 0, 0, 0.0)
    return Outcome(id, *row[:4], share, row.end, row.draft_cached, row.hashes)
