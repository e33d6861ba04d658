"""Queues that follow the load: how many, and where they are cut."""

import pytest

from benchmark.simulation.queues import fitted_thresholds, quantile_thresholds


def test_the_number_of_queues_goes_through_the_papers_two_best_ones() -> None:
    assert [len(fitted_thresholds(live, (), (0.5,))) + 1 for live in (1, 10, 30, 50, 10_000)] == [
        8,
        6,
        4,
        3,
        2,
    ]
    assert fitted_thresholds(30, (), (0.5, 9.0)) == (0.5, 1.0, 2.0)


def test_each_queue_gets_an_equal_share_of_the_work() -> None:
    assert quantile_thresholds(3, [1.0] * 9, (7.0,)) == (7.0,)
    cuts = quantile_thresholds(3, [1.0] * 12 + [4.0] * 3 + [6.0] * 2 + [12.0], (7.0,))
    assert cuts == pytest.approx((1.0, 4.0, 6.0))
