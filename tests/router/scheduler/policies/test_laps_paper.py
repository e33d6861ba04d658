from dataclasses import dataclass
from random import Random

import pytest

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import DeviceCapacity, Job, Outcome
from router.scheduler.estimation.estimator import Estimator, execution_time
from router.scheduler.planner import Planner
from router.scheduler.policies.laps_paper import LapsPaper
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.row import Row
from tests.support.virtual_device import Client, Device, capacity, serve


@dataclass
class Stage:
    """A policy and the estimator that the planner would teach."""

    policy: LapsPaper
    estimator: Estimator


def paper(capacity: DeviceCapacity, window: int = 2, patience: float | None = None) -> Stage:
    estimator, levels = Estimator(capacity), MultilevelQueue.geometric(3, 2.0, 1.0, patience)
    return Stage(LapsPaper(estimator, levels, window, 0.05), estimator)


def arrive(stage: Stage, id: int, expected: float = 100.0, cap: int = 3) -> Row:
    row = Row(Job(id, 0.0, 4, 1000, expected), AcceptanceCurve.uninformed(cap), cap)
    row.unprefilled = 0
    stage.policy.add(row, 0.0)
    return row


def observe(stage: Stage, row: Row, outcome: Outcome) -> None:
    row.apply_outcome(outcome)
    stage.estimator.observe(row, outcome)
    stage.policy.observe(row, outcome, 0.0)


def rounds(stage: Stage, row: Row, *accepted: int, seconds: float = 0.1) -> None:
    for count in accepted:
        observe(stage, row, Outcome(row.job.id, 0, 3, count, count + 1, seconds))


def ids(stage: Stage, now: float = 0.0) -> list[int]:
    return [row.job.id for row in stage.policy.order(now)]


def test_execution_time_is_rounds_times_the_cost_of_a_round() -> None:
    device = capacity(draft_token_seconds=0.002, verify_seconds=0.025)
    assert execution_time(294, 2.94, 5, device) == pytest.approx(100 * 0.035)


def test_a_request_arrives_non_perceptible_in_the_first_level() -> None:
    stage = paper(capacity())
    row = arrive(stage, 1)
    assert (stage.policy.level(row), stage.policy.perceptible_count) == (1, 0)


def test_a_non_perceptible_request_sinks_as_its_service_passes_each_threshold() -> None:
    stage = paper(capacity())
    row = arrive(stage, 1)
    for attained, level in ((0.9, 1), (1.1, 2), (2.1, 3), (50.0, 3)):
        observe(stage, row, Outcome(1, 4, 0, 0, 0, attained - row.device_seconds))
        assert stage.policy.level(row) == level


def test_non_perceptible_requests_of_a_level_do_not_preempt_one_another() -> None:
    stage = paper(capacity())
    first, _ = arrive(stage, 1), arrive(stage, 2)
    rounds(stage, first, 0, 3)
    assert ids(stage) == [1, 2]


def test_steady_acceptance_makes_a_request_perceptible_in_the_bracket_of_its_time() -> None:
    stage = paper(capacity())
    row = arrive(stage, 1, expected=30.0)
    rounds(stage, row, 1)
    assert stage.policy.perceptible_count == 0
    rounds(stage, row, 1)
    assert stage.policy.perceptible_count == 1
    left = execution_time(30 - 4, row.acceptance.expected_tokens(3), 3, capacity())
    assert left == pytest.approx(1.6, abs=0.2)
    assert stage.policy.level(row) == 2


def test_a_perceptible_request_rises_as_its_remainder_shrinks() -> None:
    stage = paper(capacity())
    row = arrive(stage, 1, expected=60.0)
    levels = []
    for _ in range(18):
        rounds(stage, row, 2)
        levels.append(stage.policy.level(row))
    assert levels[1:] == sorted(levels[1:], reverse=True)
    assert (levels[1], levels[-1]) == (3, 1)


def test_perceptible_requests_come_first_in_their_level_and_the_shortest_before_others() -> None:
    stage = paper(capacity())
    arrive(stage, 1)
    long, short = arrive(stage, 2, expected=15.0), arrive(stage, 3, expected=8.0)
    for row in (long, short):
        rounds(stage, row, 1, 1)
    assert [stage.policy.level(row) for row in (long, short)] == [1, 1]
    assert ids(stage) == [3, 2, 1]


def test_acceptance_counts_not_only_length() -> None:
    stage = paper(capacity())
    shorter, luckier = arrive(stage, 1, expected=40.0), arrive(stage, 2, expected=50.0)
    rounds(stage, shorter, *[0] * 6)
    rounds(stage, luckier, *[3] * 6)
    assert ids(stage) == [2, 1]


def test_a_request_that_outran_its_prediction_is_not_ranked_as_nearly_done() -> None:
    stage = paper(capacity())
    overrun, near = arrive(stage, 1, expected=4.0), arrive(stage, 2, expected=60.0)
    rounds(stage, overrun, *[1] * 20)
    rounds(stage, near, *[1] * 20)
    assert ids(stage) == [2, 1]


def test_there_is_no_way_back_to_non_perceptible() -> None:
    stage = paper(capacity())
    row = arrive(stage, 1)
    rounds(stage, row, 1, 1, 3, 0, 3, 0, 3, 0)
    assert stage.policy.perceptible_count == 1
    stage.policy.remove(row, None)
    assert stage.policy.perceptible_count == 0


def test_without_drafts_the_first_token_makes_a_request_perceptible() -> None:
    stage = paper(capacity(speculate=0))
    row = arrive(stage, 1, cap=0)
    observe(stage, row, Outcome(1, 4, 0, 0, 0, 0.1))
    assert stage.policy.perceptible_count == 0
    observe(stage, row, Outcome(1, 4, 0, 0, 1, 0.1))
    assert stage.policy.perceptible_count == 1


def served(clients: list[Client], stage: Stage, device: Device) -> dict[int, float]:
    scheduler = Planner(device.capacity, stage.policy, stage.estimator)
    for _ in serve(scheduler, device, clients):
        pass
    return {client.job.id: client.seconds[-1] for client in clients}


def test_a_short_perceptible_job_overtakes_a_long_one() -> None:
    device = Device(capacity(max_rows=1, pages=400), Random(1))
    long = Client(Job(1, 0.0, 4, 500, expected=300.0), 300, 1.0)
    short = Client(Job(2, 2.0, 4, 500, expected=20.0), 20, 1.0)
    ends = served([long, short], paper(device.capacity), device)
    assert ends[2] < 4.0 < ends[1]


def test_a_long_request_is_demoted_but_never_starves() -> None:
    device = Device(capacity(max_rows=1, pages=400), Random(1))
    long = Client(Job(0, 0.0, 4, 100, expected=100.0), 100, 0.5)
    crowd = [Client(Job(id, 0.4 * id, 4, 8, expected=4.0), 4, 0.5) for id in range(1, 500)]
    served([long, *crowd], paper(device.capacity, patience=6.0), device)
    gaps = [b - a for a, b in zip(long.seconds, long.seconds[1:], strict=False)]
    assert max(gaps) > 2.0, "the crowd goes first"
    assert long.seconds[-1] < crowd[-1].seconds[-1], "but not until its end"


def test_invalid_stability_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="no stability"):
        paper(capacity(), window=0)


def test_new_thresholds_move_each_row_by_its_estimate_or_its_service() -> None:
    stage = paper(capacity())
    known, blind = arrive(stage, 1, expected=30.0), arrive(stage, 2)
    rounds(stage, known, 1, 1, 1, 1)
    observe(stage, blind, Outcome(2, 4, 0, 0, 0, 1.5))
    assert stage.policy.is_perceptible(known)
    assert not stage.policy.is_perceptible(blind)
    seconds = stage.estimator.remaining_seconds(known)
    stage.policy.set_thresholds((0.5 * seconds, 1.01 * seconds, 1.49))
    assert (stage.policy.level(known), stage.policy.level(blind)) == (2, 4)
    stage.policy.set_thresholds(())
    assert (stage.policy.level(known), stage.policy.level(blind)) == (1, 1)
    assert ids(stage) == [1, 2]
