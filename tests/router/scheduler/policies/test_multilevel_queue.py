import pytest

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job, Outcome
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.row import Row


def row(id: int) -> Row:
    return Row(Job(id, 0.0, 4, 1000), AcceptanceCurve.uninformed(3), 3)


def three() -> MultilevelQueue:
    return MultilevelQueue.geometric(levels=3, ratio=2.0, first_threshold=1.0, patience=30.0)


def serve(levels: MultilevelQueue, row: Row, seconds: float, now: float, emitted: int = 1) -> None:
    row.device_seconds += seconds
    levels.record_service(row, Outcome(row.job.id, 0, 0, 0, emitted, seconds), now)


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


def test_a_row_rises_a_level_for_each_share_of_its_patience_without_service() -> None:
    levels, old, young = three(), row(1), row(2)
    levels.add(old, 3, (0, 0.0), 0.0)
    levels.add(young, 2, (0, 0.0), 25.0)
    assert ids(levels, 9.9) == [2, 1]
    levels.order(10.0)
    assert levels.level(old) == 2
    levels.order(20.0)
    assert levels.level(old) == 1
    assert ids(levels, 30.0) == [1, 2]
    assert levels.level(old) == 0


def test_the_aged_are_served_in_the_order_in_which_they_became_so() -> None:
    levels, rows = three(), [row(id) for id in range(3)]
    for member, level, arrived in zip(rows, (2, 1, 1), (2.0, 1.0, 0.0), strict=True):
        levels.add(member, level, (0, 0.0), arrived)
    for now in (10.0, 11.0, 22.0):
        levels.order(now)
    assert ids(levels, 23.0) == [2, 1, 0]


def test_a_risen_row_keeps_its_rise_for_a_quantum_and_a_token() -> None:
    levels, member = three(), row(1)
    levels.add(member, 2, (0, 0.0), 0.0)
    levels.order(20.0)
    serve(levels, member, 0.5, 20.5)
    assert levels.level(member) == 0
    serve(levels, member, 0.5, 21.0, emitted=0)
    assert levels.level(member) == 0, "prefill alone is undone by an eviction"
    serve(levels, member, 0.1, 21.1)
    assert levels.level(member) == 2


def test_a_change_of_level_does_not_take_an_aged_row_from_its_turn() -> None:
    levels, member = three(), row(1)
    levels.add(member, 1, (0, 0.0), 0.0)
    levels.order(10.0)
    levels.move(member, 3, (0, 9.0))
    assert levels.level(member) == 0
    serve(levels, member, 2.0, 12.0)
    assert levels.level(member) == 3


def test_after_its_patience_a_row_stands_above_every_level_whatever_was_done_to_it() -> None:
    for level in (1, 2, 3):
        levels, member = three(), row(1)
        levels.add(member, 1, (0, 0.0), 0.0)
        levels.move(member, level, (1, 7.0))
        levels.order(30.0)
        assert levels.level(member) == 0


@pytest.mark.parametrize(
    ("thresholds", "patience", "quantum"), [((2.0, 1.0), 1, 1), ((), 0, 1), ((), 1, 0)]
)
def test_invalid_parameters_are_refused(
    thresholds: tuple[float, ...], patience: float, quantum: float
) -> None:
    with pytest.raises(ValueError, match="must"):
        MultilevelQueue(thresholds, patience, quantum)


def test_levels_parted_elsewhere_have_other_brackets_and_rows_stay() -> None:
    levels, member = three(), row(1)
    levels.add(member, 3, (0, 0.0), 0.0)
    levels.set_thresholds((0.5,))
    assert (levels.count, levels.level_for(0.6), levels.level(member)) == (2, 2, 3)
    with pytest.raises(ValueError, match="must rise"):
        levels.set_thresholds((2.0, 1.0))
