"""Each part of the extension: what it changes, with all others off or at their defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest

from router.scheduler import build
from router.scheduler.api import Job, Outcome, RowEnded, Scheduler
from router.scheduler.config import SchedulerConfig
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.estimation.length import LearnedLengths
from router.scheduler.policies.laps import Laps
from router.scheduler.policies.laps_queues import LapsQueues
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.row import Row
from tests.support.virtual_device import capacity

RANKED = SchedulerConfig(laps_rank="remaining")
PAPER_QUEUES = SchedulerConfig(laps_rank="queues", laps_join="first", laps_perception="window")


@dataclass
class Stage:
    """A policy and the estimator that the planner would teach. Rounds take 0.13 s."""

    laps: Laps | LapsQueues
    estimator: Estimator

    def arrive(self, id: int, expected: float | None, now: float = 0.0, **more: int) -> Row:
        row = self.estimator.new_row(Job(id, now, 4, 1000, expected, **more))  # type: ignore[arg-type]
        row.unprefilled = 0
        self.laps.add(row, now)
        return row

    def rounds(self, row: Row, *accepted: int, seconds: float = 0.13) -> None:
        for count in accepted:
            outcome = Outcome(row.job.id, 0, 3, count, count + 1, seconds)
            row.apply_outcome(outcome)
            self.estimator.observe(row, outcome)
            self.laps.observe(row, outcome, 0.0)

    def order(self, now: float = 0.0) -> list[int]:
        return [row.job.id for row in self.laps.order(now)]


def stage(config: SchedulerConfig = RANKED, patience: float = 1e6, plain: bool = True) -> Stage:
    device = capacity()
    estimator = Estimator(device, LearnedLengths(raw_hints=plain), drift_threshold=5.0)
    brackets = MultilevelQueue.geometric(4, 2.0, 1.0, None)
    kind = LapsQueues if config.laps_rank == "queues" else Laps
    return Stage(kind(estimator, brackets, MultilevelQueue((), patience), config), estimator)


def test_an_arrival_enters_by_its_prior_estimate() -> None:
    at = stage()
    long, short = at.arrive(1, 300.0), at.arrive(2, 5.0)
    assert at.order() == [2, 1]
    assert (at.laps.level(long), at.laps.level(short)) == (4, 1)


def test_without_the_prior_it_enters_the_first_queue() -> None:
    at = stage(PAPER_QUEUES)
    long, short = at.arrive(1, 300.0), at.arrive(2, 5.0)
    assert at.order() == [1, 2]
    assert (at.laps.level(long), at.laps.level(short)) == (1, 1)


def test_a_request_is_perceptible_while_its_yield_is_known_and_its_length_not_exceeded() -> None:
    at = stage()
    row = at.arrive(1, 60.0)
    at.rounds(row, 1, 0, 3)
    assert not at.laps.is_perceptible(row)
    at.rounds(row, *[1, 0, 3, 2] * 4)
    assert at.laps.is_perceptible(row)
    assert at.laps.perceptible_count == 1
    at.rounds(row, *[3] * 12)
    assert row.emitted > 60
    assert not at.laps.is_perceptible(row), "its answer goes on beyond the prediction"
    at.laps.remove(row, None)
    assert at.laps.perceptible_count == 0


def test_a_drift_of_acceptance_is_noticed_and_the_past_forgotten() -> None:
    at = stage()
    row = at.arrive(1, 900.0)
    at.rounds(row, *[3, 2, 3, 3] * 15)
    assert at.laps.is_perceptible(row)
    settled, before = row.acceptance.relative_std(3), row.acceptance.expected_tokens(3)
    widths = []
    for accepted in [0, 1] * 8:
        at.rounds(row, accepted)
        widths.append(row.acceptance.relative_std(3))
    assert max(widths) > 2 * settled, "the alarm was raised"
    assert row.acceptance.expected_tokens(3) < 0.65 * before


def test_an_even_acceptance_raises_no_alarm() -> None:
    random, alarms = Random(1), 0
    for _ in range(50):
        at = stage()
        row = at.arrive(1, 900.0)
        for _ in range(150):
            at.rounds(row, sum(random.random() < 0.7**k for k in range(1, 4)))
            alarms += row.acceptance.relative_std(3) > 0.2 and row.emitted > 60
    assert alarms < 50


def test_only_a_rise_of_the_estimate_by_more_than_a_tenth_moves_a_request_down() -> None:
    at = stage()
    first = at.arrive(1, 60.0)
    at.rounds(first, *[2] * 5)
    at.arrive(2, 46.0)
    assert at.order() == [1, 2]
    at.rounds(first, 0)
    assert at.order() == [1, 2], "the estimate rose by 7 percent, above the other's"
    at.rounds(first, 0)
    assert at.order() == [2, 1], "by 13 percent in all"


def test_the_tail_parameter_goes_from_size_to_arrival() -> None:
    orders = []
    for tail in (0.0, 0.9, 1.0):
        at = stage(replace(RANKED, laps_tail=tail))
        for id, expected in enumerate((300.0, 5.0, 100.0, 20.0), 1):
            at.arrive(id, expected, now=float(id))
        orders.append(at.order())
    assert orders[0] == [2, 4, 3, 1]
    assert orders[2] == [1, 2, 3, 4]
    late = stage(replace(RANKED, laps_tail=0.5))
    late.arrive(1, 300.0, now=0.0)
    late.arrive(2, 5.0, now=1.0)
    late.arrive(3, 5.0, now=10_000.0)
    assert late.order() == [2, 1, 3], "a small one overtakes, but not one that waited very long"


def test_lower_priority_numbers_go_first() -> None:
    at = stage()
    at.arrive(1, 5.0)
    at.arrive(2, 500.0, priority=-1)
    at.arrive(3, 1.0, priority=1)
    assert at.order() == [2, 1, 3]


def test_age_goes_before_priority() -> None:
    at = stage(patience=10.0)
    old = at.arrive(1, 500.0, priority=5)
    at.arrive(2, 5.0, now=9.0, priority=-5)
    assert at.order(now=9.0) == [2, 1]
    assert at.order(now=10.0) == [1, 2]
    assert at.laps.level(old) == 0


def test_a_tenant_that_had_more_service_goes_later() -> None:
    for fairness, order in ((0.0, [1, 2]), (1.0, [2, 1])):
        at = stage(replace(RANKED, laps_fairness=fairness))
        busy = at.arrive(3, 900.0, tenant=1)
        at.arrive(2, 30.0, tenant=2)
        at.arrive(1, 10.0, tenant=1)
        at.rounds(busy, *[1] * 40)
        assert at.order()[:2] == order


def test_a_tenant_alone_and_one_that_comes_back_carry_nothing_over() -> None:
    at = stage(replace(RANKED, laps_fairness=1.0))
    alone = at.arrive(1, 900.0, tenant=1)
    at.rounds(alone, *[1] * 100)
    at.arrive(2, 30.0, tenant=2)
    at.arrive(3, 10.0, tenant=1)
    assert at.order()[:2] == [3, 2]


def test_what_was_learned_reorders_those_that_wait() -> None:
    """The caller's predictions turn out to be the wrong way round."""
    at = stage(plain=False)
    at.arrive(1, 20.0)
    at.arrive(2, 200.0)
    assert at.order() == [1, 2]
    for id in range(10, 60):
        long = id % 2
        row = at.arrive(id, 20.0 if long else 200.0)
        at.laps.remove(row, RowEnded.EOS)
        row.emitted = 200 if long else 20
        at.estimator.remove(row, RowEnded.EOS)
        at.order()
    assert at.order() == [2, 1]


def test_the_paper_s_thresholds_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(ValueError, match="no stability"):
        stage(SchedulerConfig(laps_window=0))


def submit(scheduler: Scheduler, id: int, expected: float, **more: int) -> None:
    scheduler.submit(Job(id, 0.0, 4, 60, expected, **more), 0.0)  # type: ignore[arg-type]


def test_priority_reaches_the_batch() -> None:
    scheduler = build(SchedulerConfig(), capacity(max_rows=1, depth=1))
    submit(scheduler, 1, 5.0)
    submit(scheduler, 2, 50.0, priority=-1)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    assert [run.id for run in batch.run] == [2]
