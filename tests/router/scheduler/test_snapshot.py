"""A snapshot of the scheduler: what is in it, and that taking one changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from router.scheduler import build
from router.scheduler.api import Job, Outcome, ScheduledBatch, Scheduler
from router.scheduler.config import SchedulerConfig
from router.scheduler.policies import POLICIES
from router.scheduler.snapshot import PHASES, SchedulerSnapshot
from tests.support.virtual_device import Client, Device, capacity, run

SMALL = capacity(pages=10, max_rows=2, host_pages=20, preemption="swap")


class ObservedScheduler:
    """A scheduler of which a snapshot is taken before each Batch."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.snapshots: list[SchedulerSnapshot] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def next_batch(self, now: float) -> ScheduledBatch | None:
        """Take a snapshot, then plan."""
        self.snapshots.append(self._scheduler.snapshot(100))
        return self._scheduler.next_batch(now)


def clients() -> list[Client]:
    random = Random(5)
    return [
        Client(Job(id, 0.2 * id, random.randint(1, 12), random.randint(2, 24)), 30, 0.6)
        for id in range(1, 13)
    ]


def observed(name: str) -> tuple[ObservedScheduler, list[ScheduledBatch]]:
    scheduler = ObservedScheduler(build(SchedulerConfig(scheduler=name), SMALL))
    batches = run(scheduler, Device(SMALL, Random(1)), clients())
    return scheduler, batches


@pytest.mark.parametrize("name", POLICIES)
def test_an_observed_scheduler_plans_the_same_batches(name: str) -> None:
    unobserved = build(SchedulerConfig(scheduler=name), SMALL)
    assert observed(name)[1] == run(unobserved, Device(SMALL, Random(1)), clients())


def test_all_phases_occur_under_load_and_the_pages_add_up() -> None:
    scheduler, _ = observed("laps-sd")
    rows = [row for snapshot in scheduler.snapshots for row in snapshot.rows]
    assert {row.phase for row in rows} == set(PHASES)
    for snapshot in scheduler.snapshots:
        pages = snapshot.pages
        assert pages.total == SMALL.pages == pages.used + pages.cached + pages.free
        assert pages.swap_used <= pages.swap_total == SMALL.host_pages
        assert sum(row.pages for row in snapshot.rows) <= pages.used + pages.shared * 12
        assert all(row.pages == 0 for row in snapshot.rows if row.phase == "queued")
        assert len(snapshot.survival) == SMALL.speculate


def started(count: int) -> Scheduler:
    """`count` requests, of which the first two run."""
    scheduler = build(SchedulerConfig(scheduler="fcfs"), SMALL)
    for id in range(1, count + 1):
        scheduler.submit(Job(id, 0.0, 4, 8), 0.0)
    scheduler.next_batch(0.0)
    scheduler.complete([Outcome(id, 4, 0, 0, 1, 0.25) for id in (1, 2)], 0.25)
    return scheduler


def phases(snapshot: SchedulerSnapshot) -> Sequence[tuple[int, str]]:
    return [(row.id, row.phase) for row in snapshot.rows]


def test_a_request_is_queued_then_prefilled_then_decoded() -> None:
    scheduler = build(SchedulerConfig(scheduler="fcfs"), SMALL)
    scheduler.submit(Job(1, 0.0, 4, 8), 0.0)
    assert phases(scheduler.snapshot(9)) == [(1, "queued")]
    scheduler.next_batch(0.0)
    assert phases(scheduler.snapshot(9)) == [(1, "prefill")]
    scheduler.complete([Outcome(1, 4, 0, 0, 1, 0.25)], 0.25)
    assert phases(scheduler.snapshot(9)) == [(1, "decode")]
    (row,) = scheduler.snapshot(9).rows
    assert (row.device_seconds, row.pages, row.level) == (0.25, 2, 1)


def test_a_limited_snapshot_lists_running_requests_first_and_counts_all() -> None:
    snapshot = started(20).snapshot(5)
    assert [row.id for row in snapshot.rows] == [1, 2, 3, 4, 5]
    assert snapshot.row_count == 20
    scheduler = started(3)
    scheduler.cancel(1, 1.0)
    assert phases(scheduler.snapshot(9)) == [(2, "decode"), (3, "queued")]
