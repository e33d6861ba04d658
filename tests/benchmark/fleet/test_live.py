"""The requests and the figures of the comparison over real replicas."""

from __future__ import annotations

import pytest

from benchmark.fleet.live import LONG, LONG_SHARE, SHORT, figures, trace


def test_few_requests_are_long_and_all_arrive_at_the_given_rate() -> None:
    arrivals = trace(4000, 5.0, seed=1)
    times, lengths = zip(*arrivals, strict=True)
    assert list(times) == sorted(times)
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.1)
    assert set(lengths) == {SHORT, LONG}
    assert lengths.count(LONG) / len(lengths) == pytest.approx(LONG_SHARE, rel=0.2)
    assert trace(4000, 5.0, seed=1) == arrivals != trace(4000, 5.0, seed=2)


def test_figures_are_ratios_over_all_rounds() -> None:
    rounds = [
        {"least wait": [1.0] * 10, "round robin": [1.0] * 10},
        {"least wait": [3.0] * 10, "round robin": [7.0] * 10},
    ]
    assert figures(rounds)["fleet.live_over_round_robin"] == pytest.approx(0.5)
