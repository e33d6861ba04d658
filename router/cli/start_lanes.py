"""How far each child process is with its start, as one lane each: a pure function of its events.

What a lane looks like is for `start_view` to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

FINAL_EVENTS = ("ready", "found", "checked")
"""The events that end a start, one for each kind of child."""
FIRST_TEXTS = {"router": "waiting for the shards"}
"""What a child does before its first report; any other imports its modules."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The start of one child. Times are seconds of one monotonic clock."""

    name: str
    text: str
    started_at: float
    percent: int | None = None
    """None while the amount of work is not known."""
    ended_at: float | None = None
    """None while it has not ended."""

    def seconds(self, now: float) -> float:
        """How long the start has taken up to `now`, or until it ended."""
        return (now if self.ended_at is None else self.ended_at) - self.started_at


Lanes = Mapping[str, Lane]
"""Lanes by name, in the order in which the children were started."""


def with_event(lanes: Lanes, name: str, event: str, now: float) -> Lanes:
    """The lanes after child `name` has been `started` or has sent `event`.

    A child that is started again begins its lane again.
    """
    if event == "started":
        return {**lanes, name: Lane(name, FIRST_TEXTS.get(name, "importing"), now)}
    lane = lanes.get(name)
    if lane is None or event not in FINAL_EVENTS:
        return lanes
    return {**lanes, name: replace(lane, text=event, percent=100, ended_at=now)}


def with_progress(lanes: Lanes, name: str, text: str, percent: int | None) -> Lanes:
    """The lanes after child `name` has reported what it does, and how far it is."""
    lane = lanes.get(name)
    if lane is None or lane.ended_at is not None:
        return lanes
    return {**lanes, name: replace(lane, text=text, percent=percent)}
