"""Requests that only their arrival tells apart are started in that order, whatever is learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.simulation.simulator import Planned, drive
from router.scheduler import build
from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job
from router.scheduler.config import SchedulerConfig
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies import POLICIES
from router.scheduler.policies.waiting_twins import near_kind
from tests.support.virtual_device import Client, Device, capacity

VARIANTS = {
    **{name: SchedulerConfig(scheduler=name) for name in POLICIES},
    "queues": SchedulerConfig(laps_rank="queues"),
    "remaining": SchedulerConfig(laps_rank="remaining"),
    "tail": SchedulerConfig(laps_tail=0.5),
    "fairness": SchedulerConfig(laps_fairness=1.0),
}
KINDS = (
    {"prompt": 4, "max_new": 3},
    {"prompt": 4, "max_new": 60},
    {"prompt": 12, "max_new": 60, "expected": 8.0},
    {"prompt": 12, "max_new": 60, "expected": 50.0},
    {"prompt": 4, "max_new": 3, "tenant": 1},
)


def starts(config: SchedulerConfig, clients: list[Client], seed: int) -> Iterator[int]:
    """Yield the ids of the requests in the order in which they are first run."""
    device, seen = Device(capacity(pages=200, max_rows=2), Random(seed)), set[int]()
    pairs = [(client.job, client) for client in clients]
    for event in drive(build(config, device.capacity), device, pairs, depth=2):
        for run in event.batch.run if isinstance(event, Planned) else ():
            if run.id not in seen:
                seen.add(run.id)
                yield run.id


arrivals = st.lists(
    st.tuples(st.floats(0, 0.4), st.integers(0, len(KINDS) - 1)), min_size=8, max_size=40
)


@pytest.mark.parametrize("name", VARIANTS)
@given(arrivals, st.sampled_from((0.0, 0.5, 0.95)), st.integers(0, 1 << 32))
@settings(max_examples=5, deadline=None)
def test_twins_never_overtake_one_another(
    name: str, wanted: list[tuple[float, int]], acceptance: float, seed: int
) -> None:
    """Acceptance and lengths are far from what is expected at first, so all estimates move."""
    random, now, clients = Random(seed), 0.0, []
    for id, (gap, kind) in enumerate(wanted):
        now += gap
        job = Job(id, now, **KINDS[kind])
        clients.append(Client(job, random.randint(1, job.max_new), acceptance))
    order = list(starts(VARIANTS[name], clients, seed))
    assert sorted(order) == list(range(len(wanted)))
    for kind in range(len(KINDS)):
        twins = [id for id in order if wanted[id][1] == kind]
        assert twins == sorted(twins)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("acceptance", [0.0, 0.95])
def test_hundreds_of_identical_requests_start_in_order_of_arrival(
    name: str, acceptance: float
) -> None:
    clients = [Client(Job(id, 0.1 * id, 4, 8), 8, acceptance) for id in range(100)]
    assert list(starts(VARIANTS[name], clients, 7)) == list(range(100))


def test_a_row_reads_the_live_acceptance_of_all_requests_until_it_drafts() -> None:
    live = AcceptanceCurve.uninformed(3)
    waiting, drafting = (AcceptanceCurve.following(live, 3) for _ in range(2))
    drafting.observe(0, 0)
    assert drafting.curve == waiting.curve == live.curve
    for _ in range(50):
        live.observe(3, 3)
    assert drafting.curve == waiting.curve == live.curve
    drafting.observe(3, 3)
    frozen = drafting.curve
    for _ in range(50):
        live.observe(3, 0)
    assert drafting.curve == frozen
    assert waiting.curve == live.curve != frozen


def test_a_row_that_never_drafts_itself_stays_with_the_estimate_of_all() -> None:
    estimator = Estimator(capacity())
    old = estimator.new_row(Job(1, 0.0, 4, 60))
    other = estimator.new_row(Job(2, 0.0, 4, 60))
    for _ in range(100):
        estimator._global_acceptance.observe(3, 3)
    young = estimator.new_row(Job(3, 9.0, 4, 60))
    assert estimator.remaining_seconds(old) == estimator.remaining_seconds(young)
    assert old.acceptance.curve == other.acceptance.curve


def test_what_differs_by_less_than_a_tenth_is_one_kind_and_a_class_is_not_shared() -> None:
    job = Job(1, 0.0, 1000, 200, expected=58.0)
    assert near_kind(job) == near_kind(replace(job, id=2, arrived=9.0, prompt=1010, expected=60.0))
    for change in ({"priority": 1}, {"tenant": 1}, {"route": 1}, {"speculate": 0}, {"prompt": 500}):
        assert near_kind(job) != near_kind(replace(job, **change))  # type: ignore[arg-type]
