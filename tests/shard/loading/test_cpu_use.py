"""What other processes used while ranks measured, and that a busy machine's times are not kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest

from shard.engine_parts import EngineParts, make_parts
from shard.loading import cpu_use
from shard.loading.cpu_use import CpuSeconds, CpuUse, read_cpu_seconds, share_of_others
from shard.loading.measured_times import MeasuredTimes
from tests.support import tiny

BUSY = CpuSeconds(total=20.0, busy=14.0, own=10.0)
QUIET = replace(BUSY, own=13.0)


def use_of(used: CpuSeconds) -> CpuUse:
    """Counts `used` during a first call, and nothing during later ones."""
    readings = iter([CpuSeconds(), used])
    return CpuUse(read=lambda: next(readings, used))


@pytest.mark.parametrize(
    ("used", "share"),
    [
        (BUSY, 0.2),
        (QUIET, 0.05),
        (CpuSeconds(20.0, 13.9, 14.0), 0.0),  # ticks are coarser than a process's own time
        (CpuSeconds(own=1.0), 1.0),
    ],
)
def test_the_share_of_others_is_what_is_busy_without_its_own(
    used: CpuSeconds, share: float
) -> None:
    assert share_of_others(used) == pytest.approx(share)


def test_what_is_used_between_calls_does_not_count() -> None:
    readings = starmap(CpuSeconds, [(5, 5), (7, 5), (9, 7), (13, 8)])
    use = CpuUse(read=lambda: next(readings))
    assert [use.during(partial(str, number)) for number in (1, 2)] == ["1", "2"]
    assert use.others_share() == pytest.approx(1 / 6)


def test_what_another_rank_uses_is_not_others_work() -> None:
    readings = iter([CpuSeconds(), CpuSeconds(20.0, 14.0, 6.5)])
    use = CpuUse(lambda figure: 2 * figure, lambda: next(readings))
    use.during(str)
    assert use.others_share() == pytest.approx(0.05)


def test_only_the_cores_that_this_process_may_use_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["cpu 9 9 9 9 9 9 9 9 9 9", "cpu0 900 1 2 3 4 5 6 7 8 9", "cpu1 1 2 3 400 50 6 7 8 9 9"]
    (tmp_path / "stat").write_text("\n".join([*lines, "", "intr 7"]))
    monkeypatch.setattr(cpu_use, "STATISTICS", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    read = read_cpu_seconds()
    assert (read.total, read.busy) == pytest.approx((4.77, 0.27))
    assert read.own > 0


def test_a_machine_that_does_not_say_counts_as_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_use, "STATISTICS", tmp_path / "missing")
    use = CpuUse()
    use.during(str)
    assert use.others_share() == 1


@pytest.fixture
def parts(tmp_path: Path) -> EngineParts:
    """Those of a rank that keeps what it measures in `tmp_path`."""
    model = tiny.save("llama", tmp_path / "model")
    config = tiny.config(model, measurement_cache=str(tmp_path / "kept"))
    return make_parts(config, lambda text, percent: None)


def read_again(parts: EngineParts) -> Sequence[Any]:
    """What a later launcher begins with."""
    assert parts.cache
    return parts.cache.read()


@pytest.mark.parametrize(("used", "kept"), [(BUSY, []), (QUIET, [0.5])])
def test_only_what_a_quiet_machine_measured_is_kept(
    parts: EngineParts, used: CpuSeconds, kept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    times = MeasuredTimes(None, float, cpu=use_of(used))
    assert times.recall(lambda: 0.5) == 0.5
    replace(parts, times=times).keep_measurements()
    assert read_again(parts) == kept
    assert ("others used 20 % of the cores" in caplog.text) == (not kept)


def test_a_restart_does_not_keep_what_a_busy_first_start_measured(
    parts: EngineParts, tmp_path: Path
) -> None:
    for used in (BUSY, QUIET):
        times = MeasuredTimes(tmp_path / "times", float, cpu=use_of(used))
        times.recall(lambda: 0.5)
        replace(parts, times=times).keep_measurements()
    assert times.is_complete
    assert read_again(parts) == []
