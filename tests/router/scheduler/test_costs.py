from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.scheduler.costs import StepCosts

MEASURED = [(1, 0, 0.010), (1, 1, 0.012), (1, 4, 0.018), (8, 0, 0.024), (8, 1, 0.040), (8, 4, 0.1)]


def seconds(costs: StepCosts, rows: int, draft: int) -> float:
    return costs.price(rows).seconds([draft] * rows)


@pytest.mark.parametrize(("rows", "draft", "wanted"), MEASURED)
def test_what_was_measured_is_what_is_expected(rows: int, draft: int, wanted: float) -> None:
    assert seconds(StepCosts(MEASURED, 4, 8), rows, draft) == pytest.approx(wanted)


def test_between_and_beyond_the_measured_sizes_costs_go_on_straight() -> None:
    costs = StepCosts(MEASURED, 6, 16)
    assert seconds(costs, 1, 2) == pytest.approx(0.014)
    assert seconds(costs, 1, 6) == pytest.approx(0.022)
    assert seconds(costs, 4, 0) == pytest.approx(0.016)
    assert seconds(costs, 16, 0) == pytest.approx(0.040)


def test_a_step_of_unequal_drafts_pays_for_each_position_by_the_rows_that_reach_it() -> None:
    costs = StepCosts(MEASURED, 4, 8)
    unequal = costs.price(8).seconds([4, 0, 0, 0, 0, 0, 0, 0])
    assert unequal == pytest.approx(0.024 + 0.002 + 3 * 0.0025)
    assert seconds(costs, 8, 0) < unequal < seconds(costs, 8, 4)


def test_noise_that_makes_more_work_cheaper_is_levelled() -> None:
    costs = StepCosts(
        [(1, 0, 0.010), (1, 1, 0.008), (1, 4, 0.030), (4, 0, 0.002), (4, 1, 0.04)], 4, 4
    )
    assert [seconds(costs, 1, draft) for draft in (0, 1)] == pytest.approx([0.010, 0.010])
    assert seconds(costs, 4, 0) == pytest.approx(0.010)


def test_costs_follow_the_steps() -> None:
    costs = StepCosts(MEASURED, 4, 8)
    for _ in range(200):
        costs.learn([4] * 8, 0.2)
    assert seconds(costs, 8, 4) == pytest.approx(0.2, rel=0.01)
    assert seconds(costs, 1, 4) == pytest.approx(0.018), "other sizes keep theirs"


def test_one_step_that_stood_still_moves_a_cost_by_little() -> None:
    costs = StepCosts(MEASURED, 4, 8)
    costs.learn([0] * 8, 60.0)
    assert seconds(costs, 8, 0) < 0.024 * 1.31


@pytest.mark.parametrize(
    ("cells", "reason"),
    [([], "nothing is known"), ([(1, 1, 0.1), (1, 2, 0.1)], "lack a draft length of 0")],
)
def test_measurements_that_say_too_little_are_refused(
    cells: list[tuple[int, int, float]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        StepCosts(cells, 4, 8)


times = st.floats(1e-5, 1.0)


@given(
    st.sets(st.integers(1, 64), min_size=1, max_size=4),
    st.lists(times, min_size=12, max_size=12),
    st.lists(st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=64), times), max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_longer_drafts_never_cost_less_whatever_was_seen(
    sizes: set[int], measured: list[float], seen: list[tuple[list[int], float]]
) -> None:
    figures = iter(measured)
    costs = StepCosts([(n, k, next(figures)) for n in sizes for k in (0, 1, 6)], 6, 64)
    for drafts, took in seen:
        costs.learn(drafts, took)
    for rows in (1, 3, 8, 40, 64):
        line = [seconds(costs, rows, draft) for draft in range(7)]
        assert line == sorted(line)
        assert line[0] > 0
