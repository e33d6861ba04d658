"""When subscribers of `/debug/state` get a new state, and that all of them get the same bytes.

A state is built only while there are subscribers: every `INTERVAL_SECONDS`, and after
`MIN_INTERVAL_SECONDS` if something has changed. It is encoded once. Nothing is queued: a subscriber
that reads slowly gets the newest state when it is ready for one, and misses those in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from router.errors import Overloaded
from router.observability.server_state import ServerState

INTERVAL_SECONDS = 0.25
"""Maximum age of a state when another is built."""
MIN_INTERVAL_SECONDS = 0.05
"""Minimum time between two states."""
MAX_SUBSCRIBERS = 8


@dataclass(frozen=True, slots=True)
class EncodedState:
    """A state in JSON; later ones have larger numbers."""

    number: int
    payload: bytes
    built_at: float
    changes: int
    """Number of changes when it was built."""


def is_due(last: EncodedState | None, changes: int, now: float) -> bool:
    """Return whether a state has to be built at `now`, after `changes` changes."""
    if last is None:
        return True
    changed = changes != last.changes
    return now - last.built_at >= (MIN_INTERVAL_SECONDS if changed else INTERVAL_SECONDS)


class StateFeed:
    """The newest state, and the number of its subscribers."""

    def __init__(self, build: Callable[[], ServerState]) -> None:
        """`build` returns the present state."""
        self._build = build
        self._last: EncodedState | None = None
        self._subscribers = 0

    @contextmanager
    def subscription(self) -> Iterator[None]:
        """A place for one subscriber during a `with`. Raises Overloaded if none is free."""
        if self._subscribers >= MAX_SUBSCRIBERS:
            raise Overloaded
        self._subscribers += 1
        try:
            yield
        finally:
            self._subscribers -= 1

    def newest(self, changes: int, now: float) -> EncodedState:
        """Return the newest state, which is built first if that is due."""
        last = self._last
        if last is None or is_due(last, changes, now):
            payload = self._build().model_dump_json().encode()
            last = EncodedState(1 if last is None else last.number + 1, payload, now, changes)
            self._last = last
        return last
