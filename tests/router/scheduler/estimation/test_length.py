from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scheduler.api import Job
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.estimation.length import MAX_KINDS, LearnedLengths
from tests.support.virtual_device import capacity


def job(expected: float | None = None, max_new: int = 1000, prompt: int = 5, route: int = 0) -> Job:
    return Job(1, 0.0, prompt, max_new, expected, route=route)


def served(*lengths: int, plain: bool = False) -> LearnedLengths:
    known = LearnedLengths(raw_hints=plain)
    for length in lengths:
        known.observe(job(), length)
    return known


def left(known: LearnedLengths, job: Job, emitted: int) -> float:
    estimator = Estimator(capacity(), known)
    return estimator.expected_remaining_tokens(estimator.new_row(job), emitted)


def total(known: LearnedLengths, job: Job, emitted: int = 0) -> float:
    return emitted + left(known, job, emitted)


def test_the_estimate_is_the_mean_of_what_was_served() -> None:
    random = Random(1)
    lengths = [round(exp(random.gauss(4.0, 0.6))) for _ in range(400)]
    assert total(served(*lengths), job()) == pytest.approx(sum(lengths) / 400, rel=0.1)


def test_no_answer_is_expected_to_exceed_its_limit() -> None:
    assert total(LearnedLengths(), job(max_new=7)) <= 7
    assert total(served(*[600] * 50), job(max_new=30)) == pytest.approx(30, rel=0.1)


def test_kinds_of_requests_have_lengths_of_their_own() -> None:
    known = LearnedLengths()
    for _ in range(30):
        known.observe(job(route=1), 20)
        known.observe(job(route=2, prompt=5), 200)
        known.observe(job(route=2, prompt=500), 800)
    short, middle, long = job(route=1), job(route=2), job(route=2, prompt=400)
    assert total(known, short) < 60 < total(known, middle) < 400 < total(known, long)


def test_a_rare_kind_is_judged_by_the_commoner_one() -> None:
    known = served(*[50] * 100)
    assert known.distribution(job(route=7)).median == pytest.approx(50, rel=0.3)


def test_kinds_are_forgotten_before_they_are_too_many() -> None:
    known = LearnedLengths()
    for route in range(MAX_KINDS):
        known.observe(job(route=route), 10)
    assert len(known.learned_state()["kinds"]) <= MAX_KINDS


@pytest.mark.parametrize("plain", [True, False])
def test_before_anything_was_served_the_callers_prediction_counts(plain: bool) -> None:
    known = LearnedLengths(raw_hints=plain)
    assert known.distribution(job(expected=44.0)).median == pytest.approx(44)
    assert total(known, job(expected=44.0, max_new=40)) <= 40


def test_a_raw_prediction_is_used_until_the_answer_exceeds_it() -> None:
    known = served(*[50, 80, 100] * 9, plain=True)
    assert total(known, job(expected=44.0), 43) == 44
    assert 50 < total(known, job(expected=44.0), 44) < 120


def calibrated(relation: float, noise: float, answers: int = 200) -> LearnedLengths:
    """Answers of about 90 tokens; the hint is the answer's deviation to the power of `relation`."""
    known, random = LearnedLengths(), Random(2)
    for _ in range(answers):
        deviation = random.gauss(0.0, 0.9)
        hint = exp(4.5 + relation * deviation + random.gauss(0.0, noise))
        known.observe(job(hint), round(exp(4.5 + deviation)))
    return known


def test_exact_predictions_are_trusted_more_and_more() -> None:
    known = calibrated(1.0, 0.0)
    assert known.distribution(job(expected=300.0)).median == pytest.approx(300, rel=0.05)
    assert total(known, job(expected=300.0), 150) == pytest.approx(300, rel=0.05)


def test_noisy_predictions_are_drawn_towards_what_is_usual() -> None:
    law = calibrated(1.0, 1.0).distribution(job(expected=400.0))
    assert 90 < law.median < 250
    assert 0.5 < law.sigma < 0.9


def test_reversed_predictions_are_turned_around() -> None:
    known = calibrated(-1.0, 0.2)
    assert total(known, job(expected=20.0)) > 2 * total(known, job(expected=400.0))


def test_useless_predictions_give_way_to_the_learned_law() -> None:
    known = calibrated(0.0, 0.9)
    few, many = (known.distribution(job(expected=hint)).median for hint in (20.0, 400.0))
    assert 0.7 < few / many < 1.4


def test_an_answer_beyond_all_experience_is_expected_to_go_on() -> None:
    known = served(*[10, 20] * 100)
    assert 250 < total(known, job(), 200) < 800
    assert total(known, job(max_new=250), 200) <= 250


def test_only_recent_answers_count() -> None:
    known = served(*[1000] * 300, *[10] * 1500)
    assert total(known, job()) < 20


def test_what_was_learned_is_gone_on_from() -> None:
    known, fresh = calibrated(1.0, 0.5), LearnedLengths()
    fresh.restore(known.learned_state())
    for emitted in (0, 50, 500):
        for hint in (80.0, None):
            assert left(fresh, job(hint), emitted) == left(known, job(hint), emitted)
    assert fresh.learned_state() == known.learned_state()


@given(
    st.lists(st.integers(1, 300), max_size=30),
    st.integers(1, 200),
    st.none() | st.floats(0.1, 400),
    st.booleans(),
    st.data(),
)
def test_the_remainder_never_falls_to_zero_while_the_request_lives(
    lengths: list[int], max_new: int, expected: float | None, plain: bool, data: st.DataObject
) -> None:
    emitted = data.draw(st.integers(0, max_new - 1))
    known = served(*lengths, plain=plain)
    assert emitted < total(known, job(expected, max_new), emitted) <= max_new


def test_a_hint_beyond_the_limit_says_how_surely_that_is_reached() -> None:
    random, known = Random(3), LearnedLengths()
    for _ in range(400):
        length = exp(random.gauss(4.0, 1.0))
        known.observe(job(length * exp(random.gauss(0, 1.0)), 256), round(min(256.0, length)))
    medians = [known.distribution(job(hint, 256)).median for hint in (256.0, 512.0, 1024.0)]
    assert medians == sorted(set(medians))
    assert known.distribution(job(1e300, 256)) == known.distribution(job(1024.0, 256))
    assert total(known, job(1e300, 256)) <= 256
