"""A rank that is started again decides by the times of its first start."""

from __future__ import annotations

from pathlib import Path

from shard.loading.measured_times import MeasuredTimes


def one_rank(seconds: float) -> float:
    return seconds


def test_a_restart_gets_the_times_of_the_first_start_in_the_same_order(tmp_path: Path) -> None:
    first = MeasuredTimes(tmp_path / "times", one_rank)
    assert [first(0.5), first(0.1)] == [0.5, 0.1]
    first.save()
    for _ in range(2):
        again = MeasuredTimes(tmp_path / "times", one_rank)
        assert [again(0.7), again(0.9), again(3.0)] == [0.5, 0.1, 3.0]
        again.save()
        assert MeasuredTimes(tmp_path / "times", one_rank)(9.0) == 0.5


def test_a_start_that_failed_before_it_was_ready_leaves_no_times(tmp_path: Path) -> None:
    MeasuredTimes(tmp_path / "times", one_rank)(0.5)
    assert MeasuredTimes(tmp_path / "times", one_rank)(0.7) == 0.7


def test_ranks_measure_again_where_one_of_them_has_no_times(tmp_path: Path) -> None:
    known = MeasuredTimes(tmp_path / "times", one_rank)
    known(0.5)
    known.save()
    missing_elsewhere = iter([1.0, 0.8])
    times = MeasuredTimes(tmp_path / "times", lambda seconds: next(missing_elsewhere))
    assert times(0.7) == 0.8


def test_without_a_file_every_start_measures() -> None:
    times = MeasuredTimes(None, one_rank)
    assert times(0.7) == 0.7
    times.save()
    assert MeasuredTimes(None, one_rank)(0.9) == 0.9
