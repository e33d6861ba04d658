"""The record of a scheduler's decisions: complete, without influence on them, and bounded."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.timeline.tracks import read, summary
from router.child import RouterStartupError
from router.config import Limits, RouterConfig, ServerConfig
from router.observability.bounded_log import END_BYTES, BoundedLog
from router.observability.recorded_scheduler import RecordedScheduler
from router.observability.recorded_scheduler import recorded as make_recorded
from router.scheduler import build
from router.scheduler.api import DeviceCapacity, Job, Outcome, RowEnded, Scheduler
from router.scheduler.config import SchedulerConfig

CAPACITY = DeviceCapacity(
    pages=8,
    page_size=16,
    max_rows=2,
    prefill_tokens=32,
    speculate=4,
    draft_token_seconds=0.001,
    verify_seconds=0.01,
    depth=1,
)
MEGABYTE = 1 << 20


def scheduler() -> Scheduler:
    return build(SchedulerConfig(scheduler="laps-sd"), CAPACITY)


def recorded(path: Path, max_bytes: int = MEGABYTE) -> RecordedScheduler:
    return RecordedScheduler(scheduler(), BoundedLog(str(path), max_bytes), "laps-sd", CAPACITY)


def drive(target: Scheduler, jobs: int = 4, emit: int = 3) -> list[Any]:
    """Run `jobs` to their ends, one Step at a time; return the batches."""
    left, now, batches = {}, 0.0, []
    for id in range(1, jobs + 1):
        target.submit(Job(id, now, prompt=20, max_new=12), now)
        left[id] = 12
    while (batch := target.next_batch(now)) is not None:
        batches.append(batch)
        now += 0.01
        outcomes = []
        for id, prefill, draft, *_ in batch.run:
            new = min(emit, left[id]) if prefill == 0 else 1
            left[id] -= new
            end = RowEnded.LENGTH if left[id] == 0 else None
            accepted = min(draft, max(0, new - 1))
            outcomes.append(Outcome(id, prefill, draft, accepted, new, 0.01, end))
        target.complete(outcomes, now)
    return batches


def test_a_recorded_scheduler_decides_what_it_would_without_a_record(tmp_path: Path) -> None:
    assert drive(recorded(tmp_path / "log")) == drive(scheduler())


def test_every_step_and_every_end_is_in_the_record(tmp_path: Path) -> None:
    batches = drive(recorded(tmp_path / "log"))
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[0] == {
        "event": "start",
        "policy": "laps-sd",
        "page_size": 16,
        "pages": 8,
        "max_rows": 2,
    }
    steps = [line for line in lines if line["event"] == "step"]
    assert [step["run"] for step in steps] == [[list(row[:3]) for row in b.run] for b in batches]
    rows = [row for line in lines if line["event"] == "done" for row in line["rows"]]
    assert {row[0]: row[6] for row in rows if row[6]} == dict.fromkeys((1, 2, 3, 4), "length")
    assert sum(row[4] for row in rows) == 4 * 12


def test_cancelled_rows_and_lost_shards_are_recorded_and_unknown_rows_are_not(
    tmp_path: Path,
) -> None:
    target = recorded(tmp_path / "log")
    for id in (1, 2):
        target.submit(Job(id, 0.5, prompt=20, max_new=12), 0.5)
    target.next_batch(1.0)
    target.reset()
    target.cancel(1, 2.0)
    target.cancel(2, 3.0, RowEnded.STOP)
    target.cancel(7, 4.0)
    recording = read((tmp_path / "log").read_text().splitlines())
    assert [(t.end, t.ended) for t in recording.tracks] == [("cancelled", 1.5), ("stop", 2.5)]
    assert recording.resets == [0.5]


def test_the_file_ends_with_a_line_before_it_is_too_large(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = 2_000
    with caplog.at_level(logging.WARNING):
        drive(recorded(tmp_path / "log", size), jobs=20)
    text = (tmp_path / "log").read_text()
    assert size - 1_000 < len(text) <= size
    assert json.loads(text.splitlines()[-1]) == {"event": "full"}
    assert [record.message.partition(" ends here: ")[2] for record in caplog.records] == [
        "it has reached its maximum size"
    ]
    assert read(text.splitlines()).is_cut


def test_an_existing_file_is_continued_and_its_last_start_is_read(tmp_path: Path) -> None:
    drive(recorded(tmp_path / "log"), jobs=3)
    drive(recorded(tmp_path / "log"), jobs=2)
    assert len(read((tmp_path / "log").read_text().splitlines()).tracks) == 2


def test_a_full_disk_ends_the_record_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        drive(recorded(Path("/dev/full")))
    (record,) = caplog.records
    assert record.message == "the record /dev/full ends here: No space left on device"


def test_a_limit_without_room_for_the_last_line_writes_only_that(tmp_path: Path) -> None:
    BoundedLog(str(tmp_path / "log"), END_BYTES).write({"event": "start"})
    assert (tmp_path / "log").read_text() == '{"event":"full"}\n'


def test_the_summary_counts_ends_preemptions_and_drafts(tmp_path: Path) -> None:
    drive(recorded(tmp_path / "log"))
    first, ends, *_ = summary(read((tmp_path / "log").read_text().splitlines()))
    assert first.startswith("policy laps-sd, ")
    assert first.endswith(" 4 requests")
    assert ends == "ends: 4 length"


def test_a_file_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    server = ServerConfig(record=str(tmp_path / "missing" / "log"))
    config = RouterConfig(Limits(), SchedulerConfig(), server, "", "", None, None, (), 0)
    with pytest.raises(RouterStartupError, match="cannot be written: No such file or directory"):
        make_recorded(scheduler(), config, CAPACITY)
    plain = scheduler()
    assert make_recorded(plain, replace(config, server=ServerConfig()), CAPACITY) is plain
