"""The six verbs of the scheduler: what every policy shares. Knows no policy by name.

A Batch serves the rows in the policy's order as far as rows, prefill budget and pages reach;
`batch_builder` decides how. A row that is not in a Batch keeps its pages (keep-in-place
preemption). The first row in the order waits only for its own Steps, and `submit` refuses what
could not run even alone, so with a live job and nothing in flight there is always a Batch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice, takewhile
from math import ceil
from typing import Any

from router.scheduler.api import (
    DeviceCapacity,
    Job,
    Outcome,
    RequestStatus,
    RowEnded,
    ScheduledBatch,
    SchedulerStatus,
)
from router.scheduler.batch_builder import BatchBuilder, InFlightStep
from router.scheduler.drafting.length_chooser import DraftLengthChooser
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.memory.kv_placement import KvPlacement
from router.scheduler.policies.policy import Policy
from router.scheduler.row import PREEMPTION_KINDS, Row
from router.scheduler.snapshot import RowSnapshot, SchedulerSnapshot, row_phase


class Planner:
    """A Scheduler that serves rows in the order of its policy."""

    def __init__(
        self,
        capacity: DeviceCapacity,
        policy: Policy,
        estimator: Estimator | None = None,
        *,
        adapt: bool = True,
    ) -> None:
        """`estimator`: the one that `policy` reads, if it reads any.

        `adapt`: choose the draft lengths with the most tokens per second, not the longest.
        """
        self._capacity = capacity
        self._policy = policy
        self._estimator = estimator or Estimator(capacity)
        self._draft_chooser = DraftLengthChooser(capacity, adapt=adapt)
        self._placement = KvPlacement(capacity)
        self._rows: dict[int, Row] = {}
        self._in_flight: deque[InFlightStep] = deque()
        self._to_release: dict[int, None] = {}
        """Ids whose pages are released with the next Batch, oldest first."""
        self._last_rows: dict[int, Row] = {}
        """Rows of the last Batch."""
        self._preemptions = dict.fromkeys(PREEMPTION_KINDS, 0)
        self._prefetched = 0
        self._isolated: int | None = None

    def submit(self, job: Job, now: float) -> None:
        """Add `job`. Raises ValueError if it can never fit, or if its id is live."""
        if job.id in self._rows:
            raise ValueError(f"request {job.id} is live")
        if job.prompt < 1 or job.max_new < 1 or (job.speculate or 0) < 0:
            raise ValueError(f"prompt, answer or draft is too short in {job}")
        if len(job.hashes) not in (0, job.prompt // self._capacity.page_size):
            raise ValueError(f"there must be one hash per full page of the prompt in {job}")
        need = self._placement.pages_for(job.max_kv_tokens)
        if need > self._capacity.pages:
            raise ValueError(f"request {job.id} needs {need} of {self._capacity.pages} pages")
        row = self._rows[job.id] = self._estimator.new_row(job)
        self._policy.add(row, now)

    def cancel(self, id: int, now: float, end: RowEnded | None = None) -> None:
        """Remove a live job; unknown ids are ignored. Its pages are released with the next Batch.

        `end`: STOP if the answer is complete, so that its length is learned.
        """
        row = self._rows.get(id)
        if row is not None:
            self._end_row(row, end)

    def next_batch(self, now: float) -> ScheduledBatch | None:
        """Plan one Step. Return None if there is nothing to do, or the maximum depth is reached."""
        if len(self._in_flight) >= self._capacity.depth:
            return None
        release = tuple(self._to_release)
        self._to_release.clear()
        self._placement.release(release)
        order, memory = self._order(now), self._placement
        drafts = self._draft_chooser.choose(order, memory.rows_with_kv)
        sharing = [row for step in self._in_flight for row, _ in step.values() if row.hashes]
        suffixes = self._draft_chooser.suffix_lengths
        plan = BatchBuilder(
            self._capacity, memory, order, drafts, sharing, self._isolated, suffixes
        )
        plan.fill()
        if not plan.step and not release:
            return None
        self._in_flight.append(plan.step)
        self._count_preemptions(plan)
        return plan.moves.to_batch(plan.run, release)

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Apply the outcomes of the oldest Step in flight, if there is one."""
        step = self._in_flight.popleft() if self._in_flight else {}
        for scheduled, max_emitted in step.values():
            scheduled.complete(max_emitted)
        self._draft_chooser.learn([(step[o.id][0], o) for o in outcomes if o.id in step])
        for outcome in outcomes:
            row, _ = step.get(outcome.id, (None, 0))
            # The row may have been cancelled since, and its id reused by a new job.
            if row is not None and self._rows.get(outcome.id) is row:
                self._apply_outcome(row, outcome, now)

    def reset(self) -> None:
        """Void all Steps in flight and all KV: pages, the prefix cache and host slots are empty."""
        self._in_flight.clear()
        self._to_release.clear()
        self._placement = KvPlacement(self._capacity)
        self._last_rows = {}
        for row in self._rows.values():
            row.reset()

    def isolate(self, id: int | None) -> None:
        """Let no Batch run any other job than the live job `id`; None lets all run again."""
        self._isolated = id

    def status(self) -> SchedulerStatus:
        """Return the state that metrics and `/info` show; aged rows count in the first level."""
        waiting = Counter(
            max(1, self._policy.level(row))
            for row in self._rows.values()
            if not self._ran_last(row)
        )
        rows = list(self._rows.values())
        return SchedulerStatus(
            waiting=tuple(waiting[level] for level in range(1, self._policy.level_count + 1)),
            running=len(self._last_rows),
            perceptible=self._policy.perceptible_count,
            free_pages=self._placement.pages.free,
            preemptions=dict(self._preemptions),
            prefetched=self._prefetched,
            acceptance_rate=self._estimator.acceptance_rate,
            estimate_error=self._estimator.mean_error,
            work=sum(map(self._estimator.device_share, rows)),
            wait=self._wait_behind(rows),
        )

    def request_status(self, id: int, now: float) -> RequestStatus | None:
        """Return the state of one request; None for unknown ids and for requests that ended."""
        row = self._rows.get(id)
        if row is None:
            return None
        return RequestStatus(
            level=self._policy.level(row),
            perceptible=self._policy.is_perceptible(row),
            device_seconds=row.device_seconds,
            remaining_seconds=self._estimator.remaining_seconds(row),
            wait=0.0 if self._ran_last(row) else self._estimated_wait(row, now),
            preemptions=dict(row.preemptions),
        )

    def snapshot(self, limit: int) -> SchedulerSnapshot:
        """Return the state of up to `limit` live requests, those of the last Batch first."""
        first = [row for row in self._last_rows.values() if self._rows.get(row.job.id) is row]
        others = (row for row in self._rows.values() if not self._ran_last(row))
        return SchedulerSnapshot(
            rows=tuple(map(self._row_snapshot, islice(chain(first, others), limit))),
            row_count=len(self._rows),
            pages=self._placement.page_counts(),
            survival=self._estimator.survival,
        )

    def seconds_per_end(self) -> float:
        """Return the estimated seconds between two ends of live requests; 0 without any."""
        return self._mean_share(self._rows.values())

    def learned_state(self) -> dict[str, Any]:
        """Return what to keep over a restart."""
        return self._estimator.learned_state()

    def _row_snapshot(self, row: Row) -> RowSnapshot:
        return RowSnapshot(
            id=row.job.id,
            phase=row_phase(row, in_last_batch=self._ran_last(row)),
            level=self._policy.level(row),
            perceptible=self._policy.is_perceptible(row),
            remaining_seconds=self._estimator.remaining_seconds(row),
            device_seconds=row.device_seconds,
            pages=self._placement.pages.page_count(row.job.id),
            draft_length=row.draft_length,
            survival=row.acceptance.truncated(row.max_draft),
            preemptions=dict(row.preemptions),
        )

    def _order(self, now: float) -> Sequence[Row]:
        """Return the policy's order, but the isolated row first: others may lose pages to it."""
        order = self._policy.order(now)
        if self._isolated is None:
            return order
        return sorted(order, key=lambda row: row.job.id != self._isolated)

    def _ran_last(self, row: Row) -> bool:
        """Return whether `row` is in the last Batch."""
        return self._last_rows.get(row.job.id) is row

    def _estimated_wait(self, row: Row, now: float) -> float:
        """Return the seconds until `row` is served, if the rows before it end at an even rate."""
        order = self._policy.order(now)
        return self._wait_behind(list(takewhile(lambda r: r is not row, order)))

    def _wait_behind(self, ahead: Sequence[Row]) -> float:
        """Return the seconds until one more row is served, if those `ahead` go first."""
        more = len(ahead) - self._rows_at_once(ahead) + 1
        return self._mean_share(ahead) * more if more > 0 else 0.0

    def _mean_share(self, rows: Collection[Row]) -> float:
        """Return the mean of the device seconds that `rows` still need; 0 without any."""
        return sum(map(self._estimator.device_share, rows)) / max(1, len(rows))

    def _rows_at_once(self, rows: Sequence[Row]) -> int:
        """Return how many of `rows` fit into one Batch and into the KV cache; all, if none."""
        left = self._estimator.expected_remaining_tokens
        lengths = (ceil(row.known_tokens + left(row, row.emitted)) for row in rows)
        pages = sum(map(self._placement.pages_for, lengths))
        fit = self._capacity.pages * len(rows) // max(1, pages)
        return max(1, min(self._capacity.max_rows, fit))

    def _apply_outcome(self, row: Row, outcome: Outcome, now: float) -> None:
        row.apply_outcome(outcome)
        self._estimator.observe(row, outcome)
        if outcome.end is RowEnded.ERROR:
            self._placement.pages.unpublish(row.job.id)
        else:
            self._placement.publish(row)
        if outcome.end is None:
            self._policy.observe(row, outcome, now)
        else:
            self._end_row(row, outcome.end)

    def _end_row(self, row: Row, end: RowEnded | None) -> None:
        del self._rows[row.job.id]
        row.end()
        self._estimator.remove(row, end)
        self._policy.remove(row, end)
        if self._placement.remove(row):
            self._to_release[row.job.id] = None

    def _count_preemptions(self, builder: BatchBuilder) -> None:
        rows, excluded, run = self._rows, builder.excluded, builder.running
        kept = (
            row for id, row in self._last_rows.items() if run.get(id) is not row is rows.get(id)
        )
        self._record_preemptions(
            "keep", (r for r in kept if r.remaining_tokens > 0 and r.job.id not in excluded)
        )
        self._record_preemptions("recompute", map(rows.__getitem__, builder.moves.evict))
        self._record_preemptions("swap", (rows[swap.id] for swap in builder.moves.swap_out))
        self._prefetched += len(builder.moves.swap_in)
        self._last_rows = run

    def _record_preemptions(self, kind: str, rows: Iterable[Row]) -> None:
        for row in rows:
            row.preemptions[kind] += 1
            self._preemptions[kind] += 1
