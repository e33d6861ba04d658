from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job, Outcome, RowEnded
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.baselines import Fcfs, Las, LengthSjf, SizeRanked
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.policies.policy import Policy
from router.scheduler.row import Row
from tests.support.virtual_device import capacity


def arrive(policy: Policy, id: int, arrived: float = 0.0, expected: float | None = None) -> Row:
    row = Row(Job(id, arrived, 4, 1000, expected), AcceptanceCurve.uninformed(3), 3)
    policy.add(row, arrived)
    return row


def serve(policy: Policy, row: Row, seconds: float, emitted: int = 1) -> None:
    row.started = True
    outcome = Outcome(row.job.id, 0, 0, 0, emitted, seconds)
    row.apply_outcome(outcome)
    policy.observe(row, outcome, 0.0)


def ids(policy: Policy, now: float = 0.0) -> list[int]:
    return [row.job.id for row in policy.order(now)]


def test_fcfs_serves_by_arrival_not_by_submission() -> None:
    policy = Fcfs()
    for id, arrived in ((1, 3.0), (2, 1.0), (3, 1.0)):
        arrive(policy, id, arrived)
    assert ids(policy) == [2, 3, 1]


def test_las_serves_the_least_served_level_first() -> None:
    policy = Las(MultilevelQueue.geometric(3, 2.0, 1.0, 100.0))
    first, second, _ = (arrive(policy, id) for id in (1, 2, 3))
    serve(policy, first, 1.5)
    serve(policy, first, 1.0)
    serve(policy, second, 1.5)
    assert ids(policy) == [3, 2, 1]
    assert [policy.level(row) for row in (first, second)] == [3, 2]


def test_las_does_not_alternate_inside_a_level() -> None:
    policy = Las(MultilevelQueue.geometric(3, 2.0, 1.0, 100.0))
    first, _ = arrive(policy, 1), arrive(policy, 2)
    serve(policy, first, 0.9)
    assert ids(policy) == [1, 2]


def sjf(preemptive: bool = False, estimator: Estimator | None = None) -> LengthSjf:
    estimator = estimator or Estimator(capacity())
    return LengthSjf(MultilevelQueue((), 100.0), estimator, preemptive=preemptive)


def test_sjf_serves_the_shortest_prediction_first() -> None:
    policy = sjf()
    for id, expected in ((1, 50.0), (2, 10.0), (3, 30.0)):
        arrive(policy, id, expected=expected)
    assert ids(policy) == [2, 3, 1]


def test_sjf_learns_lengths_from_what_was_served_to_its_end() -> None:
    for end, order in ((RowEnded.EOS, [3, 2]), (RowEnded.STOP, [3, 2]), (None, [2, 3])):
        estimator = Estimator(capacity())
        policy = sjf(estimator=estimator)
        done = arrive(policy, 1)
        for _ in range(20):
            done.emitted = 20
            estimator.remove(done, end)
        arrive(policy, 2, expected=50.0)
        arrive(policy, 3)
        policy.remove(done, end)
        assert ids(policy) == order


def test_sjf_does_not_displace_a_started_request() -> None:
    policy = sjf()
    first = arrive(policy, 1, expected=500.0)
    assert ids(policy) == [1]
    first.started = True
    arrive(policy, 2, expected=5.0)
    assert ids(policy) == [1, 2]


def test_sjf_with_patience_does_not_starve_a_long_request() -> None:
    policy = sjf()
    arrive(policy, 1, expected=500.0)
    for id in range(2, 6):
        arrive(policy, id, arrived=90.0, expected=5.0)
    assert ids(policy, 99.0)[0] == 2
    assert ids(policy, 100.0)[0] == 1


def test_preemptive_sjf_displaces_a_started_request_by_the_whole_prediction() -> None:
    policy = sjf(preemptive=True)
    first = arrive(policy, 1, expected=500.0)
    serve(policy, first, 1.0, emitted=480)
    arrive(policy, 2, expected=30.0)
    assert ids(policy) == [2, 1]
    arrive(policy, 3, expected=499.0)
    assert ids(policy) == [2, 3, 1]


def test_esrpt_counts_what_is_left_and_how_fast_it_goes() -> None:
    policy = SizeRanked(MultilevelQueue((), None), Estimator(capacity()).remaining_seconds)
    first = arrive(policy, 1, expected=500.0)
    serve(policy, first, 1.0, emitted=480)
    arrive(policy, 2, expected=30.0)
    assert ids(policy) == [1, 2]
    slow = arrive(policy, 3, expected=29.0)
    assert ids(policy) == [1, 3, 2]
    for _ in range(20):
        slow.acceptance.observe(3, 0)
    policy.observe(slow, Outcome(3, 0, 3, 0, 1, 0.1), 0.0)
    assert ids(policy) == [1, 2, 3]
