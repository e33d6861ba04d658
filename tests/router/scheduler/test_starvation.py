"""The bound on ageing, under 10,000 adversaries that try to starve a request, and in a flood.

An adversary sends ever shorter and more urgent requests, up to three at a time, ends any of them
and makes every Step as long as possible. The bound is that of `multilevel_queue`: once a request
has been live for its patience, only older ones are ever served before it.
"""

from collections.abc import Iterator
from random import Random

import pytest

from benchmark.simulation.device import VirtualDevice
from router.scheduler import build
from router.scheduler.api import Job, Outcome, RowEnded
from router.scheduler.config import SchedulerConfig
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.baselines import Las, LengthSjf
from router.scheduler.policies.laps import Laps
from router.scheduler.policies.laps_paper import LapsPaper
from router.scheduler.policies.laps_queues import LapsQueues
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.policies.policy import Policy
from router.scheduler.row import Row
from tests.support.nightly import nightly
from tests.support.virtual_device import Client, capacity

PATIENCE, FIRST, STEP, CROWD, STEPS = 2.0, 0.3, 0.5, 3, 20
DEVICE = capacity()


def policy(random: Random, patience: float, estimator: Estimator) -> Policy:
    levels = MultilevelQueue.geometric(3, 2.0, FIRST, patience)
    one = MultilevelQueue((), patience)
    kind = random.randrange(8)
    if kind == 0:
        return Las(levels)
    if kind == 1:
        return LengthSjf(one, estimator, preemptive=random.random() < 0.5)
    if kind == 2:
        return LapsPaper(estimator, levels, 2, 0.1)
    config = SchedulerConfig(
        laps_rank=random.choice(("gittins", "remaining", "queues")),
        laps_join=random.choice(("prior", "first")),
        laps_perception=random.choice(("window", "posterior")),
        laps_tail=random.choice((0.0, 0.5)),
        laps_fairness=random.choice((0.0, 2.0)),
    )
    laps = LapsQueues if config.laps_rank == "queues" else Laps
    return laps(estimator, levels, one, config)


def violations(seed: int, patience: float) -> Iterator[bool]:
    """Whether each Step served a request before an older one that was due by `PATIENCE`."""
    random, estimator = Random(seed), Estimator(DEVICE)
    tried = policy(random, patience, estimator)
    rows, now = dict[int, Row](), 0.0
    for id in range(STEPS):
        if len(rows) < CROWD:
            hint = 400.0 / (1 + id)
            job = Job(id, now, 4, 500, hint, priority=-id, tenant=random.randrange(3))
            rows[id] = estimator.new_row(job)
            tried.add(rows[id], now)
        row = tried.order(now)[0]
        yield any(id < row.job.id and now - rows[id].job.arrived >= PATIENCE for id in rows)
        now += STEP
        outcome = Outcome(row.job.id, 4 * (not row.started), 3, 1, int(row.started), STEP)
        row.started = True
        row.apply_outcome(outcome)
        if row.emitted and random.random() < 0.7:
            del rows[row.job.id]
            estimator.remove(row, RowEnded.EOS)
            tried.remove(row, RowEnded.EOS)
        else:
            estimator.observe(row, outcome)
            tried.observe(row, outcome, now)


@pytest.mark.parametrize("seeds", [2_000, nightly(10_000)])
def test_no_adversary_has_a_request_served_before_an_older_one_that_is_due(seeds: int) -> None:
    assert not any(any(violations(seed, PATIENCE)) for seed in range(seeds))


def test_without_ageing_most_adversaries_would() -> None:
    assert sum(any(violations(seed, 1e9)) for seed in range(200)) > 100


class Flood:
    """Clients that send a short request whenever their last one has ended, and one long request."""

    def __init__(self, config: SchedulerConfig, long: Job | None, acceptance: float) -> None:
        self.device = VirtualDevice(lambda work: 0.1 + 0.01 * work.longest_draft)
        self.scheduler = build(config, capacity(pages=4000, prefill_tokens=64))
        self.clients: dict[int, Client] = {}
        self.acceptance, self.now, self.next_id = acceptance, 0.0, 0
        self.ends: dict[int, float] = {}
        """When requests ended, in seconds after their arrival."""
        if long is not None:
            self.submit(long, 60)
        for _ in range(24):
            self.submit_short()

    def submit_short(self) -> None:
        self.submit(Job(self.next_id, self.now, 5, 3), 3)

    def submit(self, job: Job, answer: int) -> None:
        self.next_id = job.id + 1
        client = Client(job, answer, self.acceptance, random=Random(job.id))
        self.clients[job.id] = client
        self.device.add_request(job, client)
        self.scheduler.submit(job, self.now)

    def run(self, seconds: float) -> None:
        """Serve with one Step in flight."""
        while self.now < seconds and (batch := self.scheduler.next_batch(self.now)) is not None:
            self.now += self.device.send(batch)
            outcomes = self.device.finish(self.now)
            self.scheduler.complete(outcomes, self.now)
            for outcome in outcomes:
                if outcome.end is not None:
                    self.ends[outcome.id] = self.now - self.clients.pop(outcome.id).job.arrived
                    self.submit_short()


def aging(name: str) -> SchedulerConfig:
    return SchedulerConfig(scheduler=name, laps_patience=None if name == "laps-sd" else 30.0)


@pytest.mark.parametrize("name", ["laps-sd", "laps-sd-paper", "las", "sjf", "sjf-preemptive"])
def test_a_long_request_ends_in_an_endless_flood_of_short_ones(name: str) -> None:
    """Alone it takes 30 prefill Steps and at most 60 rounds, so 3 s and 7.8 s."""
    flood = Flood(aging(name), Job(0, 0.0, 1900, 60), 0.5)
    flood.run(140.0)
    assert flood.ends[0] <= 30.0 + 10 * (3.0 + 60 * 0.13 / 1.875)
    assert len(flood.ends) > 1000, "the others are served meanwhile"


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("name", ["laps-sd", "laps-sd-paper", "las", "sjf", "e-srpt"])
def test_none_of_many_identical_requests_starves(name: str, acceptance: float) -> None:
    """24 in turn on four rows: each waits for the five groups before it, and is served."""
    flood = Flood(aging(name), None, acceptance)
    flood.run(120.0)
    open_since = min(client.job.arrived for client in flood.clients.values())
    assert flood.now - open_since <= 30.0 + 10 * 0.5
    assert max(flood.ends.values()) <= 30.0 + 10 * 0.5
