"""How long to wait before a restart, and when to stop trying."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from shard.launch.restart_policy import (
    FIRST_DELAY_SECONDS,
    MAX_RESTARTS,
    WINDOW_SECONDS,
    RestartHistory,
)


def test_the_delay_doubles_until_there_were_too_many_restarts() -> None:
    history = RestartHistory()
    delays = [history.next_delay(float(second)) for second in range(MAX_RESTARTS)]
    assert delays == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert history.next_delay(100.0) is None


def test_restarts_that_are_long_ago_do_not_count() -> None:
    history = RestartHistory()
    for second in range(MAX_RESTARTS):
        history.next_delay(float(second))
    assert history.next_delay(WINDOW_SECONDS - 0.1) is None
    assert history.next_delay(WINDOW_SECONDS) == 4.0
    assert history.next_delay(3 * WINDOW_SECONDS) == FIRST_DELAY_SECONDS


@given(st.lists(st.floats(0, 100), max_size=60))
def test_no_window_contains_more_restarts_than_the_maximum(gaps: list[float]) -> None:
    history, now, recent = RestartHistory(), 0.0, deque[float]()
    for gap in gaps:
        now += gap
        while recent and recent[0] <= now - WINDOW_SECONDS:
            recent.popleft()
        delay = history.next_delay(now)
        assert (delay is None) == (len(recent) == MAX_RESTARTS)
        if delay is not None:
            assert 0 < delay <= FIRST_DELAY_SECONDS * 2 ** len(recent)
            recent.append(now)
