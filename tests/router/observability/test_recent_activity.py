"""The rate and the delays of recent tokens."""

from __future__ import annotations

from router.observability.recent_activity import (
    BUCKET_SECONDS,
    DELAY_WINDOW_SECONDS,
    MAX_DELAYS,
    Quantiles,
    RecentActivity,
)

NONE = Quantiles(None, None, None)


def test_nothing_has_happened_at_first() -> None:
    summary = RecentActivity().summary(100.0)
    assert (summary.tokens_per_second, summary.first_token, summary.inter_token) == (0, NONE, NONE)


def test_the_rate_is_that_of_the_last_two_seconds() -> None:
    activity = RecentActivity()
    for quarter in range(40):
        activity.add_next(5, 0.1, quarter * BUCKET_SECONDS)
    assert activity.summary(10.0).tokens_per_second == 20.0
    assert activity.summary(11.0).tokens_per_second == 10.0
    assert activity.summary(12.0).tokens_per_second == 0.0


def test_delays_are_per_token_and_first_tokens_are_apart() -> None:
    activity = RecentActivity()
    activity.add_first(1, 0.5, 1.0)
    activity.add_next(4, 1.0, 2.0)
    summary = activity.summary(2.0)
    assert summary.first_token == Quantiles(0.5, 0.5, 0.5)
    assert summary.inter_token == Quantiles(0.25, 0.25, 0.25)


def test_quantiles_are_nearest_ranks_of_the_window() -> None:
    activity = RecentActivity()
    for number in range(101):
        activity.add_first(1, float(number), 1.0)
    assert activity.summary(1.0).first_token == Quantiles(50.0, 90.0, 99.0)
    assert activity.summary(1.5 + DELAY_WINDOW_SECONDS).first_token == NONE


def test_a_flood_of_tokens_keeps_only_the_newest_delays() -> None:
    activity = RecentActivity()
    for number in range(3 * MAX_DELAYS):
        activity.add_next(1, float(number >= 2 * MAX_DELAYS), 1.0)
    assert activity.summary(1.0).inter_token == Quantiles(1.0, 1.0, 1.0)
