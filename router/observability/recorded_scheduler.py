"""A scheduler whose every decision, and what became of it, is a line in a file.

It wraps any scheduler and changes nothing that it decides. Lines hold numbers only, never text or
token ids. `python -m benchmark trace` draws them; their fields:

`start`: `policy`, `page_size`, `pages`, `max_rows`. `arrived`: `id`, `prompt` and `max_new` tokens.
`step`, a planned one: `run` as `[id, prefill, draft]`, and the ids in `start`, `evict`, `swap_out`,
`swap_in` and `release`. `done`, the oldest planned Step completed: `rows` as `[id, prefilled,
drafted, accepted, emitted, seconds, end]`. `ended`: the row `id`, by `end` or cancelled.
`reset`: all rows lost what the shards held. `full`: the file ends. `t` is the dispatcher's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.child import BAD_FLAG, RouterStartupError
from router.config import RouterConfig
from router.observability.bounded_log import BoundedLog
from router.scheduler.api import (
    DeviceCapacity,
    Job,
    Outcome,
    RequestStatus,
    RowEnded,
    ScheduledBatch,
    Scheduler,
    SchedulerStatus,
)
from router.scheduler.snapshot import SchedulerSnapshot


def recorded(scheduler: Scheduler, config: RouterConfig, capacity: DeviceCapacity) -> Scheduler:
    """The scheduler, whose decisions go to a file if the configuration names one.

    Raises RouterStartupError if the file cannot be written.
    """
    path, max_bytes = config.server.record, config.server.record_bytes
    if path is None:
        return scheduler
    try:
        log = BoundedLog(path, max_bytes)
    except OSError as fault:
        text = f"`record`: {path} cannot be written: {fault.strerror}"
        raise RouterStartupError(BAD_FLAG, text) from fault
    return RecordedScheduler(scheduler, log, config.scheduler.scheduler, capacity)


class RecordedScheduler:
    """`scheduler`, recorded in `log`."""

    def __init__(
        self, scheduler: Scheduler, log: BoundedLog, policy: str, capacity: DeviceCapacity
    ) -> None:
        self._scheduler, self._log = scheduler, log
        sizes = {"page_size": capacity.page_size, "pages": capacity.pages}
        log.write({"event": "start", "policy": policy, **sizes, "max_rows": capacity.max_rows})

    def submit(self, job: Job, now: float) -> None:
        """Record the arrival of a job that the scheduler accepts."""
        self._scheduler.submit(job, now)
        self._write("arrived", now, id=job.id, prompt=job.prompt, max_new=job.max_new)

    def cancel(self, id: int, now: float, end: RowEnded | None = None) -> None:
        """Record the end of a row that was live."""
        was_live = self._scheduler.request_status(id, now) is not None
        self._scheduler.cancel(id, now, end)
        if was_live:
            self._write("ended", now, id=id, end=end.value if end else "cancelled")

    def next_batch(self, now: float) -> ScheduledBatch | None:
        """Record the Step that is planned."""
        batch = self._scheduler.next_batch(now)
        if batch is not None:
            run = [[row.id, row.prefill, row.draft] for row in batch.run]
            self._write("step", now, run=run, **_changes(batch))
        return batch

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record what a Step did for each row."""
        self._scheduler.complete(outcomes, now)
        self._write("done", now, rows=[_row(outcome) for outcome in outcomes])

    def reset(self) -> None:
        """Record that the shards have failed."""
        self._scheduler.reset()
        self._log.write({"event": "reset"})

    def isolate(self, id: int | None) -> None:
        """Let only `id` run; what follows from that is recorded with the Steps."""
        self._scheduler.isolate(id)

    def status(self) -> SchedulerStatus:
        """The scheduler's."""
        return self._scheduler.status()

    def request_status(self, id: int, now: float) -> RequestStatus | None:
        """The scheduler's."""
        return self._scheduler.request_status(id, now)

    def snapshot(self, limit: int) -> SchedulerSnapshot:
        """The scheduler's."""
        return self._scheduler.snapshot(limit)

    def seconds_per_end(self) -> float:
        """The scheduler's."""
        return self._scheduler.seconds_per_end()

    def learned_state(self) -> dict[str, Any]:
        """The scheduler's."""
        return self._scheduler.learned_state()

    def _write(self, event: str, now: float, **fields: Any) -> None:
        self._log.write({"event": event, "t": round(now, 6), **fields})


def _changes(batch: ScheduledBatch) -> dict[str, list[int]]:
    """The ids of rows that enter or leave, by how they do; only what is not empty."""
    changes = {
        "start": [row.id for row in batch.start],
        "evict": list(batch.evict),
        "swap_out": [swap.id for swap in batch.swap_out],
        "swap_in": [swap.id for swap in batch.swap_in],
        "release": list(batch.release),
    }
    return {name: ids for name, ids in changes.items() if ids}


def _row(outcome: Outcome) -> list[Any]:
    counts = (outcome.prefilled, outcome.drafted, outcome.accepted, outcome.emitted)
    end = outcome.end.value if outcome.end else None
    return [outcome.id, *counts, round(outcome.seconds, 6), end]
