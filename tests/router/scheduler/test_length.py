from hypothesis import given
from hypothesis import strategies as st

from router.scheduler.base import Job
from router.scheduler.length import RECENT, Lengths


def job(max_new: int = 1000, expected: float | None = None) -> Job:
    return Job(1, 0.0, 5, max_new, expected)


def served(*lengths: int) -> Lengths:
    known = Lengths()
    for length in lengths:
        known.observe(length)
    return known


def test_the_estimate_is_the_mean_of_what_was_served() -> None:
    assert served(10, 20, 60).total(job(), 0) == 30


def test_no_answer_is_expected_to_exceed_its_limit() -> None:
    assert served(10, 20, 600).total(job(max_new=30), 0) == 20
    assert Lengths().total(job(max_new=7), 0) == 7


def test_the_callers_prediction_wins() -> None:
    assert served(10, 20, 60).total(job(expected=44.0), 0) == 44
    assert served(10, 20, 60).total(job(max_new=40, expected=44.0), 0) == 40


def test_an_outrun_prediction_gives_way_to_the_longer_answers_served() -> None:
    assert served(10, 20, 60, 80).total(job(expected=44.0), 50) == 70


def test_an_answer_beyond_all_experience_is_expected_to_double() -> None:
    assert served(10, 20).total(job(), 200) == 400
    assert served(10, 20).total(job(max_new=250), 200) == 250


def test_only_recent_answers_count() -> None:
    lengths = served(*[1000] * 50, *[10] * RECENT)
    assert lengths.total(job(), 0) == 10


@given(
    st.lists(st.integers(1, 300), max_size=30),
    st.integers(1, 200),
    st.none() | st.floats(0.1, 400),
    st.data(),
)
def test_the_remainder_never_falls_to_zero_while_the_request_lives(
    lengths: list[int], max_new: int, expected: float | None, data: st.DataObject
) -> None:
    emitted = data.draw(st.integers(0, max_new - 1))
    total = served(*lengths).total(job(max_new, expected), emitted)
    assert emitted < total <= max_new
