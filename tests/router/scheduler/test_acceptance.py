from random import Random

import pytest

from router.scheduler.acceptance import Stability, Survival


def test_a_stranger_is_expected_to_behave_like_its_prior() -> None:
    survival = Survival((0.8, 0.5, 0.2))
    assert survival.curve(3) == pytest.approx((0.8, 0.5, 0.2))
    assert survival.tokens(3) == pytest.approx(2.5)
    assert survival.fraction(3) == pytest.approx(0.5)


def test_without_drafts_a_round_yields_one_token() -> None:
    assert Survival.unknown(0).tokens(0) == 1.0


def test_survival_converges_to_what_is_observed_per_position() -> None:
    survival, random = Survival.unknown(3), Random(1)
    for _ in range(3000):
        accepted = 0
        while accepted < 3 and random.random() < 0.7:
            accepted += 1
        survival.observe(3, accepted)
    assert survival.curve(3) == pytest.approx((0.7, 0.49, 0.343), abs=0.03)
    assert survival.tokens(3) == pytest.approx(1 + 0.7 + 0.49 + 0.343, abs=0.06)


def test_the_yield_is_the_papers_n_times_a_plus_one() -> None:
    survival = Survival.unknown(5)
    survival.observe(5, 2)
    assert survival.tokens(5) == pytest.approx(5 * survival.fraction(5) + 1)


def test_a_position_that_was_never_drafted_stays_at_its_prior_but_below_those_before_it() -> None:
    survival = Survival((0.9, 0.8, 0.7))
    for _ in range(50):
        survival.observe(1, 0)
    first, second, third = survival.curve(3)
    assert first < 0.1
    assert first == second == third


def test_the_prior_weighs_three_rounds() -> None:
    survival = Survival((0.5,))
    for _ in range(3):
        survival.observe(1, 1)
    assert survival.curve(1) == pytest.approx((0.75,))


def test_steady_acceptance_is_stable_after_a_window() -> None:
    stability = Stability(4, 0.08)
    for round in range(4):
        assert not stability.stable, round
        stability.observe(5, 3)
    assert stability.stable


def test_a_jump_of_acceptance_delays_stability_until_it_has_left_the_window() -> None:
    stability = Stability(3, 0.05)
    for accepted in (0, 5, 5):
        stability.observe(5, accepted)
    assert not stability.stable
    for _ in range(4):
        stability.observe(5, 5)
    assert stability.stable


def test_stability_is_not_declared_by_the_mere_number_of_rounds() -> None:
    stability, seen = Stability(4, 0.02), 0
    for period in range(200):
        for _ in range(8):
            stability.observe(5, 5 * (period % 2))
        stability.observe(5, 5 * (period % 2 == 0))
        seen += stability.stable
    assert seen == 0


def test_rounds_without_drafts_say_nothing() -> None:
    stability = Stability(1, 0.5)
    stability.observe(0, 0)
    assert not stability.stable


@pytest.mark.parametrize(("window", "deviation"), [(0, 0.1), (3, -0.1)])
def test_senseless_thresholds_are_refused(window: int, deviation: float) -> None:
    with pytest.raises(ValueError, match="no stability"):
        Stability(window, deviation)
