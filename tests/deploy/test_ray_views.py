"""How a front under Ray Serve chooses a replica, and how many there should be."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.ray.call import PREFIX_BYTES, Call, end_to_end
from deploy.ray.launched import gauges
from deploy.ray.views import MAX_KNOWN_PREFIXES, Replicas

IDLE: dict[str, Any] = {"live": 0, "work": 0.0, "wait": 0.0, "received": {}}
BUSY: dict[str, Any] = {"live": 3, "work": 6.0, "wait": 4.0, "received": {}}


def replicas(**reports: dict[str, object]) -> Replicas:
    made = Replicas(prefix_seconds=1.0)
    made.update(reports)
    return made


def test_the_least_estimated_wait_is_first() -> None:
    made = replicas(a=BUSY, b=IDLE)
    assert [made.ranked("front", b"")[0] for _ in range(4)] == ["b"] * 4


def test_equal_replicas_take_turns() -> None:
    made = replicas(a=IDLE, b=IDLE)
    assert {made.ranked("front", b"")[0] for _ in range(2)} == {"a", "b"}


def test_what_was_sent_counts_until_it_is_reported() -> None:
    made = replicas(a=IDLE, b=IDLE)
    made.add("a", b"")
    assert {made.ranked("front", b"")[0] for _ in range(4)} == {"b"}
    made.update({"a": IDLE | {"received": {"front": 1}}, "b": IDLE})
    assert {made.ranked("front", b"")[0] for _ in range(4)} == {"a", "b"}


def test_what_has_ended_is_taken_away_until_it_is_reported() -> None:
    made = replicas(a=BUSY, b=BUSY)
    made.add("b", b"")
    made.end("b")
    made.end("b")
    assert [made.ranked("front", b"")[0] for _ in range(4)] == ["b"] * 4
    reported = BUSY | {"received": {"front": 1}, "answered": {"front": 2}}
    made.update({"a": BUSY, "b": reported})
    assert {made.ranked("front", b"")[0] for _ in range(2)} == {"a", "b"}


def test_a_replica_whose_requests_have_ended_is_idle() -> None:
    made = replicas(a=BUSY, b=IDLE)
    for _ in range(BUSY["live"]):
        made.end("a")
    assert {made.ranked("front", b"")[0] for _ in range(2)} == {"a", "b"}


def test_a_known_prefix_is_worth_a_shorter_wait_but_not_a_longer_one() -> None:
    made = replicas(a=IDLE | {"wait": 0.5, "live": 2, "work": 0.1}, b=IDLE)
    made.add("a", b"prefix")
    made.update({"a": IDLE | {"wait": 0.5, "received": {"front": 1}}, "b": IDLE})
    assert made.ranked("front", b"prefix")[0] == "a"
    assert made.ranked("front", b"other")[0] == "b"
    made.update({"a": IDLE | {"wait": 1.5, "received": {"front": 1}}, "b": IDLE})
    assert made.ranked("front", b"prefix")[0] == "b"


def test_only_the_latest_prefixes_are_remembered() -> None:
    made = replicas(a=IDLE | {"wait": 0.5, "received": {"front": 1000}}, b=IDLE)
    for number in range(MAX_KNOWN_PREFIXES + 1):
        made.add("a", b"%d" % number)
    assert made.ranked("front", b"0")[0] == "b"
    assert made.ranked("front", b"1")[0] == "a"


def test_a_replica_that_is_gone_is_forgotten() -> None:
    made = replicas(a=IDLE, b=IDLE)
    made.update({"b": IDLE})
    made.add("a", b"")
    assert list(made.ranked("front", b"")) == ["b"]


def test_short_bodies_share_no_prefix_and_hop_by_hop_headers_are_dropped() -> None:
    def prefix(body: bytes) -> bytes:
        return Call("front", "POST", "/", (), body).prefix

    assert prefix(b"x" * PREFIX_BYTES) == b""
    assert prefix(b"x" * PREFIX_BYTES + b"a") == prefix(b"x" * PREFIX_BYTES + b"b") != b""
    assert end_to_end([("Connection", "close"), ("X-Id", "1")]) == (("X-Id", "1"),)


def test_gauges_are_read_by_name_and_a_missing_one_is_an_error() -> None:
    page = "# HELP a_b text\na_b 1.5\na_b_more 2\n"
    assert gauges(page, ["a_b"]) == {"a_b": 1.5}
    with pytest.raises(KeyError):
        gauges(page, ["c"])


@pytest.mark.parametrize(("work", "number"), [(0.0, 1), (21.0, 2), (1e6, 4)])
def test_replicas_are_enough_for_the_estimated_work(work: float, number: int) -> None:
    from deploy.ray.autoscaling import replicas_for

    assert replicas_for(work, 1, 4) == number
