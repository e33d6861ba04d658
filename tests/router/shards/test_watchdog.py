"""What counts as a hang: no answer, or no progress in a Step; never a Step that computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.shards.watchdog import (
    MAX_TIMEOUT_SECONDS,
    MIN_TIMEOUT_SECONDS,
    PING_INTERVAL_SECONDS,
    SILENCE_SECONDS,
    STEP_HISTORY,
    TIMEOUT_FACTOR,
    Watchdog,
    expected_seconds,
)
from shard.wire.protocol import PageCopy, RowWork, Step
from tests.support.scripted_ranks import ready_message

CHECK_SECONDS = 0.25
"""Time between two checks in these tests."""


class Ranks:
    """Ranks under a watchdog: they answer pings, except those that are stopped."""

    def __init__(self, world_size: int = 1, timeout: float | None = None) -> None:
        self.watchdog = Watchdog(world_size, timeout)
        self.progress = [0] * world_size
        self.stopped: set[int] = set()
        self.now = 1000.0

    def check(self, seconds: float = CHECK_SECONDS) -> str | None:
        """Check once, `seconds` later; the ranks then answer."""
        self.now += seconds
        reason = self.watchdog.hang(self.now)
        for rank in self.watchdog.ranks_to_ping(self.now):
            if rank not in self.stopped:
                self.watchdog.ponged(rank, self.progress[rank])
        return reason

    def run(self, seconds: float, computing: tuple[int, ...] = ()) -> str | None:
        """Check for `seconds`, while the ranks in `computing` make progress."""
        for _ in range(round(seconds / CHECK_SECONDS)):
            for rank in computing:
                self.progress[rank] += 1
            if reason := self.check():
                return reason
        return None

    def send(self, expected: float = 0.0) -> None:
        self.watchdog.step_sent(expected, self.now)

    def answer(self, *ranks: int, seconds: float = 0.0) -> None:
        """The last of `ranks` completes the Step."""
        for rank in ranks:
            self.watchdog.step_answered(rank)
        self.watchdog.step_completed(seconds)


MARGIN = PING_INTERVAL_SECONDS + 2 * CHECK_SECONDS
"""Precision of the detection."""


@pytest.mark.parametrize("seconds", [15.0, 600.0, 7200.0])
def test_a_step_that_makes_progress_is_never_a_hang(seconds: float) -> None:
    ranks = Ranks(timeout=2.0)
    ranks.send()
    assert ranks.run(min(seconds, 60.0), computing=(0,)) is None
    for _ in range(int(seconds)):
        assert ranks.run(1.0, computing=(0,)) is None


def test_a_step_without_progress_is_a_hang_after_the_timeout() -> None:
    ranks = Ranks(timeout=3.0)
    ranks.send()
    assert ranks.run(3.0) is None
    assert ranks.run(MARGIN) == "no rank has made progress in a Step for 3 s"


def test_idle_ranks_need_no_progress() -> None:
    assert Ranks(2, timeout=1.0).run(3600.0) is None


def test_progress_counts_from_when_a_step_began_not_from_before() -> None:
    ranks = Ranks(timeout=3.0)
    ranks.run(100.0)
    ranks.send()
    assert ranks.run(3.0) is None
    assert ranks.run(MARGIN) is not None


def test_a_step_that_waits_behind_another_has_not_begun() -> None:
    ranks = Ranks(timeout=3.0)
    ranks.send()
    ranks.send()
    assert ranks.run(20.0, computing=(0,)) is None
    ranks.answer(0)
    assert ranks.run(3.0) is None
    assert ranks.run(MARGIN) is not None


def test_a_grammar_that_is_never_prepared_is_a_hang_although_steps_go_on() -> None:
    ranks = Ranks(timeout=3.0)
    ranks.check()
    ranks.watchdog.prepare_sent()
    for _ in range(int(MIN_TIMEOUT_SECONDS)):
        ranks.send()
        assert ranks.run(1.0, computing=(0,)) is None
        ranks.answer(0)
    assert ranks.run(MARGIN) == "a grammar has not been prepared for 10 s"


def test_grammars_are_prepared_one_after_the_other_each_in_its_own_time() -> None:
    ranks = Ranks(timeout=30.0)
    ranks.check()
    for _ in range(5):
        ranks.watchdog.prepare_sent()
    for _ in range(5):
        assert ranks.run(30.0) is None
        ranks.watchdog.prepare_completed()
    assert ranks.run(3600.0) is None


@pytest.mark.parametrize("in_step", [False, True], ids=["idle", "in a Step"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_rank_that_does_not_answer_is_found(in_step: bool, world_size: int) -> None:
    ranks = Ranks(world_size, timeout=3.0)
    ranks.run(10.0)
    if in_step:
        ranks.send()
    ranks.stopped.add(world_size - 1)
    others = tuple(range(world_size - 1))
    assert ranks.run(3.0 - CHECK_SECONDS, computing=others) is None
    reason = ranks.run(MARGIN, computing=others)
    assert reason == f"rank {world_size - 1} has not answered a ping for 3 s"


@given(world_size=st.integers(1, 3), moment=st.floats(10.0, 12.0), in_step=st.booleans())
def test_a_stopped_rank_is_noticed_within_two_seconds_and_one_that_answers_never(
    world_size: int, moment: float, in_step: bool
) -> None:
    ranks = Ranks(world_size)
    if in_step:
        ranks.send()
    while ranks.now < 1000.0 + moment:
        ranks.run(CHECK_SECONDS, computing=(0,))
        assert not ranks.watchdog.is_stalled(ranks.now + CHECK_SECONDS)
    ranks.stopped.add(world_size - 1)
    assert ranks.run(2.0 - CHECK_SECONDS) is None
    assert ranks.watchdog.is_stalled(ranks.now + CHECK_SECONDS)


def test_a_router_that_was_stopped_itself_calls_no_rank_silent() -> None:
    ranks = Ranks()
    ranks.run(10.0)
    ranks.stopped.add(0)
    ranks.check(PING_INTERVAL_SECONDS)
    assert not ranks.watchdog.is_stalled(ranks.now + 100 * SILENCE_SECONDS)


def test_a_rank_that_waits_for_one_that_computes_is_not_a_hang() -> None:
    ranks = Ranks(2, timeout=2.0)
    ranks.send()
    assert ranks.run(60.0, computing=(1,)) is None
    assert ranks.run(2.0) is None
    assert ranks.run(MARGIN) is not None


def test_a_step_that_one_rank_never_completes_is_a_hang() -> None:
    ranks = Ranks(2, timeout=2.0)
    ranks.send()
    ranks.run(1.0, computing=(0, 1))
    ranks.watchdog.step_answered(0)
    assert ranks.run(2.0) is None
    assert ranks.run(MARGIN) is not None


def test_a_completed_step_shows_that_a_rank_is_alive() -> None:
    ranks = Ranks(timeout=3.0)
    ranks.stopped.add(0)
    ranks.check()
    for _ in range(10):
        ranks.send()
        assert ranks.run(2.0) is None
        ranks.answer(0)
    assert ranks.run(3.0 + MARGIN) is not None


def test_a_rank_is_pinged_once_at_a_time_and_not_more_often_than_the_interval() -> None:
    watchdog = Watchdog(2, None)
    assert watchdog.ranks_to_ping(0.0) == [0, 1]
    watchdog.ponged(1, 0)
    assert watchdog.ranks_to_ping(PING_INTERVAL_SECONDS / 2) == []
    assert watchdog.ranks_to_ping(PING_INTERVAL_SECONDS) == [1]


def test_a_caller_that_was_stopped_itself_blames_no_rank() -> None:
    ranks = Ranks()
    ranks.send()
    ranks.stopped.add(0)
    ranks.check()
    ranks.stopped.clear()
    assert ranks.check(3600.0) is None
    ranks.watchdog.ponged(0, 1)
    assert ranks.run(5.0, computing=(0,)) is None


@pytest.mark.parametrize(
    ("expected", "timeout"),
    [(0.0, MIN_TIMEOUT_SECONDS), (0.1, MIN_TIMEOUT_SECONDS), (3.0, TIMEOUT_FACTOR * 3.0)],
)
def test_by_default_the_timeout_follows_from_the_step(expected: float, timeout: float) -> None:
    ranks = Ranks()
    ranks.send(expected)
    assert ranks.watchdog.timeout() == timeout
    assert ranks.run(timeout) is None
    assert ranks.run(MARGIN) is not None


def test_a_machine_slower_than_at_warm_up_gets_a_longer_timeout() -> None:
    ranks = Ranks()
    for _ in range(STEP_HISTORY):
        ranks.send(0.5)
        ranks.answer(0, seconds=4.0)
    ranks.send(1.0)
    assert ranks.watchdog.timeout() == TIMEOUT_FACTOR * 8.0


@pytest.mark.parametrize("usual", range(0, 100, 33))
def test_one_step_that_was_slow_gives_no_longer_timeout(usual: int) -> None:
    """Whenever it came: a hang after it is found as soon as one before it."""
    ranks = Ranks()
    for seconds in (*[0.5] * (usual // 2), 45.0, *[0.5] * (usual - usual // 2)):
        ranks.send(0.5)
        ranks.answer(0, seconds=seconds)
    ranks.send(0.1)
    assert ranks.watchdog.timeout() == MIN_TIMEOUT_SECONDS
    assert ranks.run(MIN_TIMEOUT_SECONDS + MARGIN) is not None


def test_no_derived_timeout_is_longer_than_its_maximum() -> None:
    ranks = Ranks()
    for _ in range(STEP_HISTORY):
        ranks.send(1.0)
        ranks.answer(0, seconds=100.0)
    ranks.send(1.0)
    assert ranks.watchdog.timeout() == MAX_TIMEOUT_SECONDS


def test_a_faster_machine_gets_no_shorter_timeout() -> None:
    ranks = Ranks()
    for _ in range(STEP_HISTORY):
        ranks.send(2.0)
        ranks.answer(0, seconds=0.1)
    ranks.send(2.0)
    assert ranks.watchdog.timeout() == TIMEOUT_FACTOR * 2.0


def test_the_configured_timeout_is_the_same_for_every_step() -> None:
    ranks = Ranks(timeout=1.5)
    ranks.send(100.0)
    assert ranks.watchdog.timeout() == 1.5


def test_what_a_step_should_take_follows_from_its_tokens_drafts_and_copies() -> None:
    costs = replace(
        ready_message(0),
        verify_seconds=1.0,
        draft_token_seconds=0.25,
        prefill_token_seconds=0.5,
        swap_token_seconds=0.125,
    )
    work = (RowWork(1, 100, 0), RowWork(2, 0, 3), RowWork(3, 0, 0))
    step = Step(1, (), (), (), work, swap_out=PageCopy((1, 2), (0, 1)))
    assert expected_seconds(step, [costs]) == 50.0 + 2.0 + 0.75 + 2 * 16 * 0.125
    assert expected_seconds(step, [costs, replace(costs, verify_seconds=2.0)]) == 58.75
    assert expected_seconds(Step(1, (), (), (), ()), [costs]) == 0.0


@given(
    st.floats(1.0, 30.0),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=400),
)
def test_nothing_that_shows_life_within_every_timeout_is_a_hang(
    timeout: float, script: list[tuple[bool, bool, bool]]
) -> None:
    """At each check a rank may compute, be stopped for a moment, or complete its Step."""
    ranks = Ranks(2, timeout)
    ranks.send()
    idle = 0.0
    for computes, stops, completes in script:
        idle = 0.0 if computes or completes else idle + CHECK_SECONDS
        if idle + MARGIN >= timeout:
            idle, computes = 0.0, True
        ranks.progress[0] += computes
        ranks.stopped = {1} if stops else set()
        assert ranks.check() is None
        for rank in range(2):
            ranks.watchdog.ponged(rank, ranks.progress[rank])
        if completes:
            ranks.answer(0, 1)
            ranks.send()


@given(
    st.floats(0.5, 60.0),
    st.integers(1, 4),
    st.integers(0, 100),
    st.booleans(),
    st.booleans(),
)
def test_every_hang_is_found_within_the_timeout_and_a_margin(
    timeout: float, world_size: int, before: int, stopped: bool, in_step: bool
) -> None:
    ranks = Ranks(world_size, timeout)
    ranks.send()
    everyone = tuple(range(world_size))
    assert ranks.run(before * CHECK_SECONDS, computing=everyone) is None
    if not in_step:
        ranks.answer(*everyone)
    if stopped:
        ranks.stopped = {before % world_size}
    found = ranks.run(timeout + MARGIN + CHECK_SECONDS)
    assert (found is not None) == (stopped or in_step)
