"""Who has waited for too long, and what a refused client is advised."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest

from router.dispatch.live_requests import LiveRequests, PreparedRequest
from router.dispatch.page_hashes import PromptPages
from router.dispatch.queue_wait import REFRESH_SECONDS, QueueWait
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.scheduler.api import RequestStatus
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import Sampling
from tests.support.families import byte_level


@dataclass
class Estimates:
    """The parts that estimate: scheduler and shards."""

    per_end: float = 0.0
    waits: dict[int, float] = field(default_factory=dict)
    restart: float = 0.0
    asked: int = 0

    def seconds_per_end(self) -> float:
        self.asked += 1
        return self.per_end

    def request_status(self, id: int, now: float) -> RequestStatus | None:
        return RequestStatus(1, False, 0.0, 1.0, self.waits.get(id, 0.0), {})

    def seconds_to_restart(self, now: float) -> float:
        return self.restart


class Queue:
    """Live requests, and the wait over them."""

    def __init__(self, max_seconds: float = inf, **estimates: Any) -> None:
        self.records = LiveRequests(Tokenizer(byte_level()))
        self.estimates = Estimates(**estimates)
        part: Any = self.estimates
        self.wait = QueueWait(part, part, self.records, max_seconds)

    def add(self, call: int, now: float, *, runs: bool = False) -> LiveRequest:
        prepared = PreparedRequest(
            "id", Request("a", Sampling()), (1,), 9, PromptPages(), now, call=call
        )
        record = self.records.add(prepared, now)
        if runs:
            record.mark_scheduled(now, 0)
        return record

    def overdue(self, now: float) -> list[int]:
        return [record.id for record, _ in self.wait.refuse_overdue(now)]


def test_only_what_has_not_run_for_the_whole_time_is_overdue() -> None:
    queue = Queue(10.0)
    queue.add(1, 0.0, runs=True)
    queue.add(2, 0.0)
    queue.add(3, 1.0)
    assert [queue.overdue(now) for now in (9.9, 10.0, 11.0)] == [[], [2], [2, 3]]


def test_no_sequence_is_overdue_once_another_of_its_call_has_run() -> None:
    queue = Queue(10.0)
    first = queue.add(1, 0.0)
    queue.add(1, 0.0)
    assert queue.overdue(10.0) == [1, 2]
    first.mark_scheduled(10.0, 0)
    assert queue.overdue(10.0) == []


def test_an_arrival_is_refused_for_a_longer_wait_than_the_limit() -> None:
    queue = Queue(10.0, waits={2: 10.0, 3: 10.5}, restart=0.0)
    queue.add(1, 0.0)
    assert queue.wait.refuse_arrival(queue.add(2, 0.0), 0.0) == []
    record = queue.add(3, 0.0)
    [(refused, error)] = queue.wait.refuse_arrival(record, 0.0)
    assert (refused, error.headers["Retry-After"]) == (record, "11")
    queue.estimates.restart = 5.0
    [(_, later)] = queue.wait.refuse_arrival(record, 0.0)
    assert later.headers["Retry-After"] == "16"
    second = queue.add(3, 0.0)
    queue.estimates.waits[second.id] = 99.0
    assert queue.wait.refuse_arrival(second, 0.0) == [], "its call has been accepted"


def test_without_a_limit_nothing_is_refused() -> None:
    queue = Queue(waits={1: 1e9})
    record = queue.add(1, 0.0)
    assert (queue.wait.refuse_arrival(record, 0.0), queue.overdue(1e9)) == ([], [])


def test_the_advice_counts_ends_and_a_restart_and_is_renewed_when_it_is_old() -> None:
    queue = Queue(per_end=2.0, restart=30.0)
    assert [queue.wait.seconds_until_ended(count, 7.0) for count in (1, 3)] == [32.0, 36.0]
    queue.estimates.per_end = 1.0
    assert queue.wait.seconds_until_ended(3, 7.0 + REFRESH_SECONDS / 2) == 36.0
    assert queue.estimates.asked == 1
    assert queue.wait.seconds_until_ended(3, 7.0 + REFRESH_SECONDS) == pytest.approx(33.0)
