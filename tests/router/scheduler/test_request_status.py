"""The status of one request, and what is kept over a restart."""

from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest

from benchmark.simulation.device import VirtualDevice
from router.scheduler import build
from router.scheduler.api import Job, Outcome, RowEnded, Scheduler
from router.scheduler.config import SchedulerConfig
from router.scheduler.policies import POLICIES
from tests.support.virtual_device import Client, Device, capacity, run


def scheduler(name: str = "fcfs", learned: dict[str, Any] | None = None) -> Scheduler:
    small = capacity(max_rows=1, depth=1)
    return build(SchedulerConfig(scheduler=name), small, learned)


def test_an_unknown_request_has_no_status() -> None:
    assert scheduler().request_status(1, 0.0) is None


@pytest.mark.parametrize("name", POLICIES)
def test_attained_service_grows_and_the_remainder_shrinks(name: str) -> None:
    served = scheduler(name)
    served.submit(Job(1, 0.0, 4, 50, 40.0), 0.0)
    served.next_batch(0.0)
    served.complete([Outcome(1, 4, 0, 0, 1, 0.25)], 0.25)
    before = served.request_status(1, 0.25)
    served.next_batch(0.25)
    served.complete([Outcome(1, 0, 3, 3, 4, 0.5)], 0.75)
    after = served.request_status(1, 0.75)
    assert before is not None
    assert after is not None
    assert (before.device_seconds, after.device_seconds) == (0.25, 0.75)
    assert 0 < after.remaining_seconds < before.remaining_seconds


def test_the_estimated_wait_grows_along_the_order() -> None:
    served = scheduler()
    for id in range(4):
        served.submit(Job(id, float(id), 4, 50, 40.0), 3.0)
    served.next_batch(3.0)
    looks = [served.request_status(id, 3.0) for id in range(4)]
    waits = [look.wait for look in looks if look is not None]
    assert waits[0] == 0 < waits[1] < waits[2] < waits[3]
    assert waits[1] == pytest.approx(looks[0].remaining_seconds)  # type: ignore[union-attr]


def test_the_status_estimates_the_work_of_all_and_the_wait_of_one_more() -> None:
    served = scheduler()
    assert (served.status().work, served.status().wait) == (0.0, 0.0)
    served.submit(Job(0, 0.0, 4, 50, 40.0), 0.0)
    alone = served.status()
    assert alone.wait == pytest.approx(alone.work)
    served.submit(Job(1, 0.0, 4, 50, 40.0), 0.0)
    assert served.status().work == pytest.approx(2 * alone.work)
    assert served.status().wait == pytest.approx(2 * alone.work)


def test_one_more_request_does_not_wait_while_rows_are_free() -> None:
    roomy = build(SchedulerConfig(), capacity(max_rows=4))
    for id in range(3):
        roomy.submit(Job(id, 0.0, 4, 5, 3.0), 0.0)
    assert roomy.status().wait == 0.0
    assert roomy.status().work > 0.0


def test_a_request_counts_its_own_preemptions() -> None:
    served = scheduler("e-srpt")
    served.submit(Job(1, 0.0, 4, 50, 40.0), 0.0)
    served.next_batch(0.0)
    served.complete([Outcome(1, 4, 0, 0, 1, 0.1)], 0.1)
    served.submit(Job(2, 0.1, 4, 50, 3.0), 0.1)
    served.next_batch(0.1)
    kept, other = served.request_status(1, 0.1), served.request_status(2, 0.1)
    assert kept is not None
    assert other is not None
    assert kept.preemptions == {"keep": 1, "swap": 0, "recompute": 0}
    assert other.preemptions == {"keep": 0, "swap": 0, "recompute": 0}


@pytest.mark.parametrize(("now", "level"), [(5.0, 1), (60.0, 0)])
def test_a_request_stands_in_level_0_once_it_is_old_for_its_size(now: float, level: int) -> None:
    small = capacity(max_rows=1, depth=1)
    served = build(SchedulerConfig(scheduler="las", laps_patience=5.0), small)
    served.submit(Job(1, 0.0, 4, 50), 0.0)  # ten times its expected service are 27 s
    served.next_batch(now)
    status = served.request_status(1, now)
    assert status is not None
    assert status.level == level


def serve(served: Scheduler, hints: bool = True) -> None:
    random = Random(3)
    device = Device(capacity(max_rows=1, depth=1), random)
    clients = []
    for id in range(60):
        answer = random.randint(2, 40)
        job = Job(id, 0.1 * id, 4, 100, answer * random.lognormvariate(0, 0.3) if hints else None)
        clients.append(Client(job, answer, 0.5))
    run(served, device, clients)


def test_the_status_shows_acceptance_and_the_error_of_estimates() -> None:
    served = scheduler()
    assert (served.status().acceptance_rate, served.status().estimate_error) == (0.0, 0.0)
    serve(served)
    view = served.status()
    # Drafts pass each place with chance 1/2.
    assert 0.2 < view.acceptance_rate < 0.4
    assert 0.0 < view.estimate_error < 0.5


@cache
def experienced(name: str) -> Scheduler:
    """A scheduler of that policy which has served requests without length hints."""
    served = scheduler(name)
    serve(served, hints=False)
    return served


@pytest.mark.parametrize("name", POLICIES)
def test_what_was_learned_survives_a_restart(name: str) -> None:
    first = experienced(name)
    learned = first.learned_state()
    second, blank = scheduler(name, learned), scheduler(name)
    assert second.learned_state() == learned
    waits = []
    for each in (first, second, blank):
        each.submit(Job(1000, 100.0, 4, 100), 100.0)
        look = each.request_status(1000, 100.0)
        assert look is not None
        waits.append(look.remaining_seconds)
    assert waits[0] == pytest.approx(waits[1])
    assert waits[2] > 1.5 * waits[1], "a fresh server expects 128 tokens, this one 20"


def test_an_answer_that_only_the_text_ended_teaches_its_length() -> None:
    taught, untaught = scheduler(), scheduler()
    for served, end in ((taught, RowEnded.STOP), (untaught, None)):
        for id in range(40):
            served.submit(Job(id, 0.0, 4, 30), 0.0)
            served.next_batch(0.0)
            served.complete([Outcome(id, 4, 0, 0, 1, 0.1)], 0.1)
            served.cancel(id, 0.1, end)
            served.next_batch(0.1)
            served.complete([], 0.1)
    assert taught.learned_state() != untaught.learned_state()
    assert untaught.learned_state() == scheduler().learned_state()


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return isinstance(value, int | float | str)


@pytest.mark.parametrize("name", POLICIES)
def test_what_was_learned_is_made_of_plain_values(name: str) -> None:
    assert plain(experienced(name).learned_state())


def corrupted_states() -> list[Any]:
    learned = experienced("laps-sd").learned_state()
    lengths, survival = learned["lengths"], learned["survival"]
    return [
        {},
        {**learned, "version": 0},
        {**learned, "lengths": None},
        {**learned, "lengths": {**lengths, "fit": lengths["fit"][1:]}},
        {**learned, "lengths": {**lengths, "spread": [1.0, float("nan")]}},
        {**learned, "lengths": {**lengths, "kinds": [["x"]]}},
        {**learned, "survival": {**survival, "passed": [2.0 * n for n in survival["reached"]]}},
        {**learned, "survival": {**survival, "passed": [0.0]}},
        {**learned, "survival": 5},
    ]


@pytest.mark.parametrize("place", range(9))
def test_what_was_not_learned_is_refused(place: int) -> None:
    with pytest.raises(ValueError, match="not what a scheduler has learned"):
        scheduler(learned=corrupted_states()[place])


def test_a_shorter_draft_goes_on_from_what_a_longer_one_learned() -> None:
    longer = scheduler()
    serve(longer)
    shorter = replace(capacity(max_rows=1, depth=1), speculate=1)
    learned = build(
        SchedulerConfig(scheduler="fcfs"), shorter, longer.learned_state()
    ).learned_state()
    assert learned["survival"]["reached"] == longer.learned_state()["survival"]["reached"][:1]


@pytest.mark.parametrize("name", ["fcfs", "laps-sd"])
def test_the_time_between_two_ends_is_what_a_busy_server_shows(name: str) -> None:
    """Forty alike requests, of which four run at once in Steps that take 0.1 s."""
    served = build(SchedulerConfig(scheduler=name), capacity(depth=1, pages=4000))
    device = VirtualDevice(lambda work: 0.1)
    now, ends = 0.0, 0
    for id in range(40):
        job = Job(id, 0.0, 4, 20, 20.0, speculate=0)
        device.add_request(job, Client(job, 20, 0.0))
        served.submit(job, now)
    estimates = []
    while (batch := served.next_batch(now)) is not None:
        now += device.send(batch)
        outcomes = device.finish(now)
        served.complete(outcomes, now)
        ends += sum(outcome.end is not None for outcome in outcomes)
        estimates.append((now, ends, served.seconds_per_end()))
    assert served.seconds_per_end() == 0.0
    halfway, ended, estimate = next(each for each in estimates if each[1] >= 20)
    assert estimate == pytest.approx((now - halfway) / (40 - ended), rel=0.3)


def test_the_wait_counts_the_rows_that_memory_holds_at_once() -> None:
    def wait(pages: int) -> float:
        served = build(SchedulerConfig(scheduler="fcfs"), capacity(depth=1, pages=pages))
        for id in range(4):
            served.submit(Job(id, float(id), 60, 20, 20.0), 3.0)
        status = served.request_status(3, 3.0)
        assert status is not None
        return status.wait

    assert wait(pages=1000) == 0.0, "four rows fit"
    assert wait(pages=41) > 1.0, "two rows fit"
