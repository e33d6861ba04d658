"""Overload: twice as many requests as can be served, and a limit on those that are live.

A request that finds the server full is refused, as by `--max-concurrent-requests`. Each one that is
admitted ends within 30 s and ten times its service alone: it is due after 30 s or that time, and
then only older requests are served before it, of which the limit admits few.
"""

from __future__ import annotations

from random import Random

import pytest

from benchmark.simulation.device import VirtualDevice
from router.scheduler import build
from router.scheduler.api import Job
from router.scheduler.config import SchedulerConfig
from tests.support.virtual_device import Client, capacity

PERMITS = 32
GAP_SECONDS = 0.22
"""Mean time between two arrivals; half as long as between two ends."""
PLAIN, DRAFTED = 0.1, 0.01
"""Seconds of a Step, and of each position that it drafts."""
PREFILL = 64
"""Prompt tokens of a Step."""


class Overload:
    """Requests of mixed lengths that arrive at random, faster than they can be served."""

    def __init__(self, config: SchedulerConfig, gap: float) -> None:
        """`gap`: mean seconds between two arrivals."""
        self.device = VirtualDevice(lambda work: PLAIN + DRAFTED * work.longest_draft)
        self.scheduler = build(config, capacity(pages=4000, prefill_tokens=PREFILL))
        self.random, self.gap = Random(1), gap
        self.live: dict[int, tuple[Job, float]] = {}
        """Each with its service alone, in seconds."""
        self.excess: list[float] = []
        """Of each request that has ended: latency less ten times its service alone."""
        self.now = self.next_arrival = 0.0
        self.refused = self.last_id = 0

    def run(self, seconds: float) -> None:
        """Admit requests for `seconds`, then serve those that are live."""
        while self.now < seconds or self.live:
            while self.next_arrival <= min(self.now, seconds):
                self.arrive()
            self.step()

    def arrive(self) -> None:
        random, arrived = self.random, self.next_arrival
        self.next_arrival += random.expovariate(1 / self.gap)
        prompt, answer = random.choice(((8, 3), (8, 8), (64, 16), (400, 60)))
        if len(self.live) == PERMITS:
            self.refused += 1
            return
        self.last_id += 1
        job = Job(self.last_id, arrived, prompt, answer)
        client = Client(job, answer, 0.5, random=Random(job.id))
        self.live[job.id] = job, service_alone(job)
        self.device.add_request(job, client)
        self.scheduler.submit(job, self.now)

    def step(self) -> None:
        batch = self.scheduler.next_batch(self.now)
        if batch is None:
            self.now = max(self.now, self.next_arrival)
            return
        self.now += self.device.send(batch)
        outcomes = self.device.finish(self.now)
        self.scheduler.complete(outcomes, self.now)
        for outcome in outcomes:
            if outcome.end is not None:
                job, alone = self.live.pop(outcome.id)
                self.excess.append(self.now - job.arrived - 10 * alone)


def service_alone(job: Job) -> float:
    """Seconds of the Steps that the request needs at least, if nothing else is served.

    Half of the drafts are accepted, so that at best a round of three emits two tokens.
    """
    return PLAIN * -(-job.prompt // PREFILL) + (PLAIN + 3 * DRAFTED) * (job.max_new - 1) / 1.875


def overloaded(config: SchedulerConfig, seconds: float) -> Overload:
    """The whole run; nothing is refused while the first are admitted and the last are served."""
    overload = Overload(config, GAP_SECONDS)
    overload.run(seconds)
    assert overload.refused > 0.7 * len(overload.excess), "the load is twice what is served"
    return overload


def test_every_admitted_request_ends_in_time_under_twice_the_load() -> None:
    overload = overloaded(SchedulerConfig(), 200.0)
    assert max(overload.excess) <= 30.0


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["laps-sd", "laps-sd-paper", "fcfs"])
def test_every_admitted_request_ends_in_time_in_ten_minutes_of_overload(name: str) -> None:
    patience = 30.0 if name == "laps-sd-paper" else None
    overload = overloaded(SchedulerConfig(scheduler=name, laps_patience=patience), 600.0)
    assert max(overload.excess) <= 30.0
