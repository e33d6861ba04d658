import pytest

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.row import Row


def row(id: int) -> Row:
    return Row(Job(id, 0.0, 4, 1000), AcceptanceCurve.uninformed(3), 3)


def three() -> MultilevelQueue:
    return MultilevelQueue.geometric(levels=3, ratio=2.0, first_threshold=1.0, patience=30.0)


def ids(levels: MultilevelQueue, now: float) -> list[int]:
    return [row.job.id for row in levels.order(now)]


def test_thresholds_grow_by_the_ratio() -> None:
    assert MultilevelQueue.geometric(4, 3.0, 0.5, 1.0).thresholds == (0.5, 1.5, 4.5)


def test_a_bracket_is_open_below_and_closed_above() -> None:
    assert [three().level_for(seconds) for seconds in (0.0, 1.0, 1.01, 2.0, 99.0)] == [
        1,
        1,
        2,
        2,
        3,
    ]


def test_higher_levels_come_first_and_equals_in_the_order_of_entry() -> None:
    levels, rows = three(), [row(id) for id in range(4)]
    for member, level in zip(rows, (3, 1, 2, 1), strict=True):
        levels.add(member, level, (0, 0.0), 0.0)
    assert ids(levels, 0.0) == [1, 3, 2, 0]
    levels.move(rows[1], 2, (0, 0.0))
    assert ids(levels, 0.0) == [3, 2, 1, 0]


def test_inside_a_level_rank_decides_before_entry() -> None:
    levels, rows = three(), [row(id) for id in range(4)]
    for member, rank in zip(rows, ((1, 0.0), (0, 5.0), (0, 2.0), (1, 0.0)), strict=True):
        levels.add(member, 1, rank, 0.0)
    assert ids(levels, 0.0) == [2, 1, 0, 3]


def test_attained_service_sinks_a_row_and_never_lifts_it() -> None:
    levels, member = three(), row(1)
    levels.add(member, 1, (0, 0.0), 0.0)
    for attained, level in ((1.0, 1), (1.5, 2), (7.0, 3), (0.0, 3)):
        member.device_seconds = attained
        levels.demote(member)
        assert levels.level(member) == level


def test_a_row_goes_before_all_others_once_it_has_been_live_for_the_patience() -> None:
    levels, old, young = three(), row(1), row(2)
    levels.add(old, 3, (0, 0.0), 0.0)
    levels.add(young, 2, (0, 0.0), 25.0)
    assert ids(levels, 29.9) == [2, 1]
    assert levels.level(old) == 3
    assert ids(levels, 30.0) == [1, 2]
    assert levels.level(old) == 0


def test_the_aged_are_served_in_the_order_in_which_they_arrived() -> None:
    service = {0: 4.0, 1: 0.5, 2: 0.5}
    levels = MultilevelQueue((1.0, 2.0), 30.0, lambda row: service[row.job.id])
    for id, level, arrived in ((0, 2, 0.0), (1, 1, 1.0), (2, 1, 2.0)):
        levels.add(row(id), level, (0, 0.0), arrived)
    assert ids(levels, 35.0) == [1, 2, 0]
    assert ids(levels, 40.0) == [0, 1, 2], "it has waited longest, so it displaces the others"


def test_a_row_that_needs_long_is_aged_only_after_ten_times_its_service() -> None:
    service = 5.0
    levels, member = MultilevelQueue((), 30.0, lambda row: service), row(1)
    levels.add(member, 1, (0, 0.0), 100.0)
    levels.order(149.9)
    assert levels.level(member) == 1
    levels.order(150.0)
    assert levels.level(member) == 0


def test_an_estimate_that_falls_ages_a_row_before_it_was_due() -> None:
    service = 50.0
    levels, member = MultilevelQueue((), 30.0, lambda row: service), row(1)
    levels.add(member, 1, (0, 0.0), 0.0)
    levels.order(30.0)
    service = 1.0
    levels.order(37.5)
    assert levels.level(member) == 0


def test_an_aged_row_stays_first_until_it_ends() -> None:
    levels, member, other = three(), row(1), row(2)
    levels.add(member, 2, (0, 0.0), 0.0)
    levels.add(other, 1, (0, 0.0), 29.0)
    levels.order(30.0)
    for service in range(50):
        member.device_seconds += 1.0
        levels.move(member, 3, (0, float(service)))
        levels.demote(member)
        assert ids(levels, 30.5) == [1, 2]
    levels.remove(member)
    assert ids(levels, 30.5) == [2]


def test_after_its_patience_a_row_stands_above_every_level_whatever_was_done_to_it() -> None:
    for level in (1, 2, 3):
        levels, member = three(), row(1)
        levels.add(member, 1, (0, 0.0), 0.0)
        levels.move(member, level, (1, 7.0))
        levels.order(30.0)
        assert levels.level(member) == 0


@pytest.mark.parametrize(("thresholds", "patience"), [((2.0, 1.0), 1), ((), 0), ((), -1)])
def test_invalid_parameters_are_refused(thresholds: tuple[float, ...], patience: float) -> None:
    with pytest.raises(ValueError, match="must"):
        MultilevelQueue(thresholds, patience)


def test_levels_parted_elsewhere_have_other_brackets_and_rows_stay() -> None:
    levels, member = three(), row(1)
    levels.add(member, 3, (0, 0.0), 0.0)
    levels.set_thresholds((0.5,))
    assert (levels.count, levels.level_for(0.6), levels.level(member)) == (2, 2, 3)
    with pytest.raises(ValueError, match="must rise"):
        levels.set_thresholds((2.0, 1.0))
