"""Remainders and Gittins' index against sampled lengths."""

from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scheduler.estimation.lognormal import LogNormal
from router.scheduler.policies.gittins import GittinsTables


def sample(law: LogNormal, count: int = 100_000) -> list[float]:
    random = Random(1)
    return sorted(law.median * exp(law.sigma * random.gauss(0, 1)) for _ in range(count))


@pytest.mark.parametrize("emitted", [0, 50, 100, 200])
@pytest.mark.parametrize("most", [300, 100_000])
def test_the_expected_remainder_is_the_mean_of_the_longer_ones(emitted: float, most: int) -> None:
    law = LogNormal(100.0, 0.6)
    longer = [min(length, most) for length in sample(law) if length > emitted]
    assert law.expected_remaining(emitted, most) == pytest.approx(
        sum(longer) / len(longer) - emitted, rel=0.05
    )


def work(lengths: list[float], emitted: float) -> float:
    """By definition, over every moment to stop at which enough have ended to tell."""
    longer = [length - emitted for length in lengths if length > emitted]
    best, before = float("inf"), 0.0
    for ended, left in enumerate(longer, 1):
        before += left
        if ended > len(longer) // 20:
            best = min(best, (before + (len(longer) - ended) * left) / ended)
    return best


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("age", [0.0, 0.3, 1.0, 1.5])
def test_work_is_gittins_index_of_the_same_law(sigma: float, age: float) -> None:
    law = LogNormal(100.0, sigma)
    found = GittinsTables().work_per_completion(law, age * law.median, 1e9)
    assert found == pytest.approx(work(sample(law), age * law.median), rel=0.1)


def test_a_heavy_tail_lets_the_fresh_go_before_those_that_outlived_most() -> None:
    wide, narrow, table = LogNormal(100.0, 1.0), LogNormal(100.0, 0.2), GittinsTables()
    assert table.work_per_completion(wide, 300, 1e9) > 1.5 * table.work_per_completion(
        wide, 20, 1e9
    )
    assert table.work_per_completion(narrow, 90, 1e9) < table.work_per_completion(narrow, 20, 1e9)


@given(
    st.floats(1, 5000),
    st.floats(0.01, 2.5),
    st.just(0.0) | st.floats(1, 20_000),
    st.integers(1, 20_000),
)
def test_nothing_is_ever_nearly_done_by_estimate_alone(
    median: float, sigma: float, emitted: float, left: int
) -> None:
    law, most = LogNormal(median, sigma), emitted + left
    remainder = law.expected_remaining(emitted, most)
    assert 0.999 <= remainder <= left + 0.001
    assert 0 <= GittinsTables().work_per_completion(law, emitted, most) <= remainder


def test_an_answer_beyond_its_law_is_expected_to_go_on_in_proportion() -> None:
    law = LogNormal(100.0, 0.1)
    for emitted in (300, 3000):
        assert 0.2 * emitted < law.expected_remaining(emitted, 1e9) < 3 * emitted
