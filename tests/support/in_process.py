"""Requests and an order of service for the in-process loop: preemption strikes anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from benchmark.engine.in_process import InProcessRequest
from router.scheduler.api import Outcome
from router.scheduler.api import RowEnded as SchedulerEnd
from router.scheduler.row import Row
from shard.wire.protocol import NewRow, Sampling
from tests.support.samplings import DEVICE_SAMPLINGS
from tests.support.tiny import VOCABULARY


class RandomPolicy:
    """An order of service that changes at random."""

    level_count = 1
    perceptible_count = 0

    def __init__(self, random: Random, change: float) -> None:
        self._random, self._change = random, change
        self._rows: list[Row] = []

    def is_perceptible(self, row: Row) -> bool:
        return False

    def level(self, row: Row) -> int:
        return 1

    def add(self, row: Row, now: float) -> None:
        self._rows.append(row)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        pass

    def remove(self, row: Row, end: SchedulerEnd | None) -> None:
        self._rows.remove(row)

    def order(self, now: float) -> Sequence[Row]:
        if self._random.random() < self._change:
            self._random.shuffle(self._rows)
        return list(self._rows)


class EndingRequest(InProcessRequest):
    """A request whose text may end with EOS."""

    def to_row(self) -> NewRow:
        return replace(super().to_row(), ignore_eos=False)


def device_requests() -> list[InProcessRequest]:
    """Three for each parameter of device rounds, and two that need rounds of the host."""
    random = Random(4)
    requests: list[InProcessRequest] = []
    host_only = [Sampling(watermark=True), Sampling(temperature=0.9, watermark=True)]
    for id, sampling in enumerate([*DEVICE_SAMPLINGS.values()] * 3 + host_only):
        prompt = tuple(random.randrange(VOCABULARY) for _ in range(random.randint(1, 20)))
        seeded = replace(sampling, seed=id)
        requests.append(EndingRequest(id, prompt, random.randint(1, 48), seeded))
    return requests
