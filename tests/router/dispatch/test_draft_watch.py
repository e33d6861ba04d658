"""A drafter that never pays is named once; one that is used, or that nobody may use, never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from router.dispatch.draft_watch import WINDOW_STEPS, DraftWatch
from router.scheduler.api import ScheduledBatch, ScheduledRow


@dataclass(frozen=True)
class Asked:
    speculate: int | None = None


@dataclass(frozen=True)
class Record:
    request: Asked


RECORDS: Any = {id: Record(Asked()) for id in range(9)}
UNDRAFTED: Any = {id: Record(Asked(0)) for id in range(9)}


def step(*drafts: int, prefill: int = 0) -> ScheduledBatch:
    return ScheduledBatch(tuple(ScheduledRow(id, prefill, k) for id, k in enumerate(drafts)))


def reports(watch: DraftWatch, batches: list[ScheduledBatch], records: Any = RECORDS) -> list[int]:
    """The numbers of the batches at which the drafter was reported."""
    return [n for n, batch in enumerate(batches, 1) if watch.observe(batch, records)]


def test_a_drafter_that_is_never_chosen_is_reported_once_at_the_end_of_a_window() -> None:
    assert reports(DraftWatch("model"), [step(0)] * 5 * WINDOW_STEPS) == [WINDOW_STEPS]


def test_probes_do_not_make_it_pay() -> None:
    batches = [step(0, 0, 0, 0)] * WINDOW_STEPS
    for place in (16, 48, 112, 240, 496):
        batches[place] = step(1, 1, 1, 1)
    watch = DraftWatch("model")
    assert reports(watch, batches) == [WINDOW_STEPS]
    assert watch.warning(0.031) == (
        "the drafter `model` does not pay: in the last 512 steps only 1.0% of the rounds drafted,"
        " and 3% of the drafts were accepted; --speculate 0 saves its memory, another draft model"
        " may be faster"
    )


@pytest.mark.parametrize("drafts", [(5,), (0, 0, 0, 3), (1, 1)])
def test_a_drafter_in_use_is_not_reported(drafts: tuple[int, ...]) -> None:
    assert reports(DraftWatch("model"), [step(*drafts)] * 3 * WINDOW_STEPS) == []


def test_a_window_with_drafts_delays_the_report() -> None:
    batches = [step(3)] * 30 + [step(0)] * 3 * WINDOW_STEPS
    assert reports(DraftWatch("model"), batches) == [2 * WINDOW_STEPS]


def test_prefills_and_rows_that_may_not_draft_do_not_count() -> None:
    watch = DraftWatch("model")
    assert reports(watch, [step(0, prefill=4)] * 2 * WINDOW_STEPS) == []
    assert reports(watch, [ScheduledBatch(())] * 2 * WINDOW_STEPS) == []
    assert reports(watch, [step(0, 0)] * 2 * WINDOW_STEPS, UNDRAFTED) == []
    assert reports(watch, [step(0, 0)] * 2 * WINDOW_STEPS, {}) == []
    assert reports(watch, [step(0)] * WINDOW_STEPS) == [WINDOW_STEPS]
