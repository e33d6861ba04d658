from random import Random

import pytest

from router.scheduler.acceptance import AcceptanceCurve, AcceptanceStability


def test_a_new_request_is_expected_to_behave_like_its_prior() -> None:
    survival = AcceptanceCurve((0.8, 0.5, 0.2))
    assert survival.truncated(3) == pytest.approx((0.8, 0.5, 0.2))
    assert survival.expected_tokens(3) == pytest.approx(2.5)
    assert survival.accepted_fraction(3) == pytest.approx(0.5)


def test_without_drafts_a_round_yields_one_token() -> None:
    assert AcceptanceCurve.uninformed(0).expected_tokens(0) == 1.0


def test_survival_converges_to_what_is_observed_per_position() -> None:
    survival, random = AcceptanceCurve.uninformed(3, memory_rounds=3000), Random(1)
    for _ in range(3000):
        accepted = 0
        while accepted < 3 and random.random() < 0.7:
            accepted += 1
        survival.observe(3, accepted)
    assert survival.truncated(3) == pytest.approx((0.7, 0.49, 0.343), abs=0.03)
    assert survival.expected_tokens(3) == pytest.approx(1 + 0.7 + 0.49 + 0.343, abs=0.06)


def test_the_yield_is_the_papers_n_times_a_plus_one() -> None:
    survival = AcceptanceCurve.uninformed(5)
    survival.observe(5, 2)
    assert survival.expected_tokens(5) == pytest.approx(5 * survival.accepted_fraction(5) + 1)


def test_a_position_that_was_never_drafted_is_judged_by_those_before_it() -> None:
    worse, better = AcceptanceCurve((0.6, 0.36, 0.216)), AcceptanceCurve((0.6, 0.36, 0.216))
    for _ in range(50):
        worse.observe(1, 0)
        better.observe(1, 1)
    assert worse.truncated(3) == pytest.approx((0.034, 0.001, 0.0), abs=0.001)
    assert better.truncated(3) == pytest.approx((0.977, 0.955, 0.934), abs=0.002)


def test_a_round_says_nothing_of_positions_behind_the_first_that_failed() -> None:
    survival = AcceptanceCurve((0.5, 0.25))
    survival.observe(2, 1)
    survival.observe(2, 0)
    first, second = survival.truncated(2)
    assert first == pytest.approx((1.5 + 1) / 5)
    assert second == pytest.approx(first * 1.5 / 4)


def test_what_a_request_did_long_ago_fades() -> None:
    survival = AcceptanceCurve((0.5,))
    for _ in range(500):
        survival.observe(1, 0)
    for _ in range(64):
        survival.observe(1, 1)
    assert survival.truncated(1)[0] > 0.6


def test_the_prior_weighs_three_rounds() -> None:
    survival = AcceptanceCurve((0.5,))
    for _ in range(3):
        survival.observe(1, 1)
    assert survival.truncated(1) == pytest.approx((0.75,))


def test_steady_acceptance_is_stable_after_a_window() -> None:
    stability = AcceptanceStability(4, 0.08)
    for round in range(4):
        assert not stability.is_stable, round
        stability.observe(5, 3)
    assert stability.is_stable


def test_a_jump_of_acceptance_delays_stability_until_it_has_left_the_window() -> None:
    stability = AcceptanceStability(3, 0.05)
    for accepted in (0, 5, 5):
        stability.observe(5, accepted)
    assert not stability.is_stable
    for _ in range(4):
        stability.observe(5, 5)
    assert stability.is_stable


def test_the_number_of_rounds_alone_does_not_make_acceptance_stable() -> None:
    stability, seen = AcceptanceStability(4, 0.02), 0
    for period in range(200):
        for _ in range(8):
            stability.observe(5, 5 * (period % 2))
        stability.observe(5, 5 * (period % 2 == 0))
        seen += stability.is_stable
    assert seen == 0


def test_rounds_without_drafts_say_nothing() -> None:
    stability = AcceptanceStability(1, 0.5)
    stability.observe(0, 0)
    assert not stability.is_stable


@pytest.mark.parametrize(("window", "deviation"), [(0, 0.1), (3, -0.1)])
def test_invalid_thresholds_are_refused(window: int, deviation: float) -> None:
    with pytest.raises(ValueError, match="no stability"):
        AcceptanceStability(window, deviation)
