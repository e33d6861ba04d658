"""When a state is built, and who gets it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from router.debug.state_feed import MAX_SUBSCRIBERS, EncodedState, StateFeed, is_due
from router.errors import Overloaded


class Builds:
    """Counts the states that are built."""

    count = 0

    def __call__(self) -> Any:
        self.count += 1
        return self

    def model_dump_json(self) -> str:
        return str(self.count)


@pytest.mark.parametrize(
    ("age", "changes", "due"),
    [(0.0, 1, False), (0.24, 1, False), (0.25, 1, True), (0.04, 2, False), (0.05, 2, True)],
)
def test_a_state_is_due_by_age_and_sooner_after_a_change(
    age: float, changes: int, due: bool
) -> None:
    last = EncodedState(1, b"{}", built_at=0.0, changes=1)
    assert is_due(None, 0, 0.0)
    assert is_due(last, changes, age) == due


def test_all_subscribers_get_one_state_that_is_built_once() -> None:
    builds = Builds()
    feed = StateFeed(builds)
    assert builds.count == 0
    states = {feed.newest(0, 0.1 * number) for number in range(3)}
    assert [(state.number, state.payload) for state in states] == [(1, b"1")]
    assert feed.newest(0, 0.3).number == 2


def test_a_slow_subscriber_skips_states_and_gets_the_newest() -> None:
    feed = StateFeed(Builds())
    for second in range(5):
        newest = feed.newest(0, float(second))
    assert feed.newest(0, 4.1) is newest
    assert newest.payload == b"5"


def test_places_for_subscribers_are_limited_and_become_free_again() -> None:
    feed = StateFeed(Builds())
    with ExitStack() as places:
        for _ in range(MAX_SUBSCRIBERS):
            places.enter_context(feed.subscription())
        with pytest.raises(Overloaded), feed.subscription():
            pass
    with feed.subscription():
        pass
