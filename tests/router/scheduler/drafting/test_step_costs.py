from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.scheduler.drafting.step_costs import StepCostModel

MEASURED = [(1, 0, 0.010), (1, 1, 0.012), (1, 4, 0.018), (8, 0, 0.024), (8, 1, 0.040), (8, 4, 0.1)]


def seconds(costs: StepCostModel, rows: int, draft: int) -> float:
    return costs.price(rows).seconds([draft] * rows)


@pytest.mark.parametrize(("rows", "draft", "wanted"), MEASURED)
def test_what_was_measured_is_what_is_expected(rows: int, draft: int, wanted: float) -> None:
    assert seconds(StepCostModel(MEASURED, 4, 8), rows, draft) == pytest.approx(wanted)


def test_between_and_beyond_the_measured_sizes_costs_go_on_straight() -> None:
    costs = StepCostModel(MEASURED, 6, 16)
    assert seconds(costs, 1, 2) == pytest.approx(0.014)
    assert seconds(costs, 1, 6) == pytest.approx(0.022)
    assert seconds(costs, 4, 0) == pytest.approx(0.016)
    assert seconds(costs, 16, 0) == pytest.approx(0.040)


def test_a_step_of_unequal_drafts_pays_for_each_position_by_the_rows_that_reach_it() -> None:
    costs = StepCostModel(MEASURED, 4, 8)
    unequal = costs.price(8).seconds([4, 0, 0, 0, 0, 0, 0, 0])
    assert unequal == pytest.approx(0.024 + 0.002 + 3 * 0.0025)
    assert seconds(costs, 8, 0) < unequal < seconds(costs, 8, 4)


def test_noise_that_makes_more_work_cheaper_is_levelled() -> None:
    costs = StepCostModel(
        [(1, 0, 0.010), (1, 1, 0.008), (1, 4, 0.030), (4, 0, 0.002), (4, 1, 0.04)], 4, 4
    )
    assert [seconds(costs, 1, draft) for draft in (0, 1)] == pytest.approx([0.010, 0.010])
    assert seconds(costs, 4, 0) == pytest.approx(0.010)


def test_costs_follow_the_steps() -> None:
    costs = StepCostModel(MEASURED, 4, 8)
    for _ in range(200):
        costs.learn([4] * 8, 800, 0.2)
    assert costs.price(8).seconds([4] * 8, 800) == pytest.approx(0.2, rel=0.02)
    assert seconds(costs, 1, 4) == pytest.approx(0.018), "other sizes keep theirs"


def test_steps_of_mixed_lengths_tell_what_equal_ones_cost() -> None:
    """In truth 10 ms a Step, 3 a draft position, 1 a drafted token, 5 us a token attended to."""
    straight = [(1, 0, 0.010), (1, 4, 0.030), (8, 0, 0.024), (8, 4, 0.1)]
    costs, random = StepCostModel(straight, 4, 8), Random(1)
    for _ in range(400):
        most, context = random.randint(0, 4), random.randint(0, 2000)
        drafts = [random.randint(0, most) for _ in range(8)]
        took = 0.010 + 0.003 * max(drafts) + 0.001 * sum(drafts) + 5e-6 * context
        costs.learn(drafts, context, took)
    for draft in (0, 2, 4):
        for context in (0, 1000):
            true = 0.010 + 0.003 * draft + 0.001 * 8 * draft + 5e-6 * context
            assert costs.price(8).seconds([draft] * 8, context) == pytest.approx(true, rel=0.1)


def test_growing_rows_do_not_make_drafts_expensive() -> None:
    costs = StepCostModel(MEASURED, 4, 8)
    dear = costs.price(8).with_context(0).seconds([4] * 8) - costs.price(8).with_context(0).base
    for context in range(0, 8000, 20):
        costs.learn([0] * 8, context, 0.024 + 5e-6 * context)
    price = costs.price(8).with_context(8000)
    assert price.base == pytest.approx(0.064, rel=0.05)
    assert price.seconds([4] * 8) - price.base == pytest.approx(dear, rel=0.01)


def test_one_step_that_stood_still_changes_no_cost() -> None:
    costs = StepCostModel(MEASURED, 4, 8)
    for _ in range(3):
        costs.learn([0] * 8, 0, 60.0)
        costs.learn([0] * 8, 0, 0.024)
    assert seconds(costs, 8, 0) == pytest.approx(0.024)


@pytest.mark.parametrize("ratio", [0.25, 0.4, 2.5, 5.0, 60.0])
@pytest.mark.parametrize("draft", [0, 1, 4])
def test_a_price_is_right_after_two_steps_that_contradict_it(ratio: float, draft: int) -> None:
    costs = StepCostModel(MEASURED, 4, 8)
    for _ in range(50):
        costs.learn([draft] * 8, 0, seconds(costs, 8, draft))
    true = ratio * seconds(costs, 8, draft)
    costs.learn([draft] * 8, 0, true)
    costs.learn([draft] * 8, 0, true)
    assert seconds(costs, 8, draft) == pytest.approx(true, rel=0.15)


def test_drafts_that_cost_nothing_at_warm_up_may_turn_out_to_cost() -> None:
    """One row needs the same time for nine tokens as for one, but 32 rows do not."""
    costs = StepCostModel([(1, 0, 0.067), (1, 8, 0.067)], 8, 32)
    for _ in range(2):
        costs.learn([8] * 32, 0, 4.0)
    assert seconds(costs, 32, 8) == pytest.approx(4.0, rel=0.05)
    assert seconds(costs, 32, 0) < 0.5
    assert costs.lacks_plain_step(32)
    assert not costs.lacks_plain_step(1), "nothing has drafted"
    for _ in range(2):
        costs.learn([0] * 32, 0, 0.3)
    assert not costs.lacks_plain_step(32)
    assert seconds(costs, 32, 0) == pytest.approx(0.3, rel=0.1)
    assert seconds(costs, 32, 8) == pytest.approx(4.0, rel=0.1)
    assert seconds(costs, 32, 4) == pytest.approx(2.15, rel=0.1)


def test_one_row_shows_what_many_cost() -> None:
    """Beyond what was measured each token costs as much as the steepest slope that was seen."""
    costs = StepCostModel([(1, 0, 0.060), (1, 4, 0.100)], 4, 32)
    assert seconds(costs, 32, 0) == pytest.approx(0.060 + 31 * 0.010)
    assert seconds(costs, 32, 4) == pytest.approx(0.100 + 31 * 5 * 0.010)


def test_plain_steps_of_more_rows_show_what_drafts_of_as_many_cost() -> None:
    """Between 1 and 4 rows a token costs 5 ms; a draft costs 10 ms for one row, so 5 without it."""
    costs = StepCostModel([(1, 0, 0.060), (1, 4, 0.100), (4, 0, 0.075)], 4, 16)
    assert seconds(costs, 4, 4) == pytest.approx(0.075 + 0.040 + 3 * 4 * 0.005)
    assert seconds(costs, 16, 0) == pytest.approx(0.075 + 12 * 0.005)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [([], "no cost of a Step"), ([(1, 1, 0.1), (1, 2, 0.1)], "lack a draft length of 0")],
)
def test_measurements_that_say_too_little_are_refused(
    cells: list[tuple[int, int, float]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        StepCostModel(cells, 4, 8)


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
    costs = StepCostModel([(n, k, next(figures)) for n in sizes for k in (0, 1, 6)], 6, 64)
    for drafts, took in seen:
        costs.learn(drafts, 10 * len(drafts), took)
    for rows in (1, 3, 8, 40, 64):
        line = [seconds(costs, rows, draft) for draft in range(7)]
        assert line == sorted(line)
        assert line[0] > 0
