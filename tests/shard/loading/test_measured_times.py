"""A rank that is started again decides by the times of its first start."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest

from shard.loading.measured_times import MeasuredTimes


def one_rank(seconds: float) -> float:
    return seconds


def recall(times: MeasuredTimes, seconds: float) -> float:
    """The time that ranks decide by, where this one has measured `seconds`."""
    return float(times.recall(lambda: times.max_over_ranks(seconds)))


def test_a_restart_gets_the_times_of_the_first_start_in_the_same_order(tmp_path: Path) -> None:
    first = MeasuredTimes(tmp_path / "times", one_rank)
    assert [recall(first, 0.5), recall(first, 0.1)] == [0.5, 0.1]
    first.save()
    for _ in range(2):
        again = MeasuredTimes(tmp_path / "times", one_rank)
        assert [recall(again, 0.7), recall(again, 0.9), recall(again, 3.0)] == [0.5, 0.1, 3.0]
        again.save()
        assert recall(MeasuredTimes(tmp_path / "times", one_rank), 9.0) == 0.5


def test_a_start_that_failed_before_it_was_ready_leaves_no_times(tmp_path: Path) -> None:
    recall(MeasuredTimes(tmp_path / "times", one_rank), 0.5)
    assert recall(MeasuredTimes(tmp_path / "times", one_rank), 0.7) == 0.7


@pytest.mark.parametrize("elsewhere", [[], [0.4], [0.5, 0.6]])
def test_ranks_measure_again_where_one_of_them_has_other_times(
    elsewhere: list[float],
) -> None:
    """Every rank takes part in as many collectives, also the one whose digest is the larger."""
    digests = [float(crc32(json.dumps(values).encode())) for values in ([1.0], elsewhere)]
    calls: list[float] = []

    def max_over_ranks(seconds: float) -> float:
        calls.append(seconds)
        other = digests[1] if len(calls) < 3 else 0.8
        return max(seconds, other * (1 if seconds >= 0 else -1))

    times = MeasuredTimes(None, max_over_ranks, kept=[1.0])
    assert calls == [digests[0], -digests[0]]
    assert recall(times, 0.7) == 0.8


def test_without_a_file_every_start_measures() -> None:
    times = MeasuredTimes(None, one_rank)
    assert recall(times, 0.7) == 0.7
    times.save()
    assert recall(MeasuredTimes(None, one_rank), 0.9) == 0.9


def test_what_is_known_is_not_measured_unless_that_compiles_kernels() -> None:
    calls: list[str] = []

    def measure(name: str) -> str:
        calls.append(name)
        return name

    times = MeasuredTimes(None, one_rank, kept=["known"])
    assert [times.recall(partial(measure, name)) for name in "ab"] == ["known", "b"]
    assert calls == ["b"]
    assert not times.is_complete
    repeated = MeasuredTimes(None, one_rank, kept=["known"], repeat=True)
    assert repeated.recall(lambda: measure("c")) == "known"
    assert calls == ["b", "c"]
    assert repeated.is_complete


def test_the_values_of_this_launcher_replace_those_of_an_earlier_one(tmp_path: Path) -> None:
    first = MeasuredTimes(tmp_path / "times", one_rank, kept=[0.5])
    assert recall(first, 0.7) == 0.5
    first.save()
    assert recall(MeasuredTimes(tmp_path / "times", one_rank, kept=[0.1]), 0.7) == 0.5
