"""What happens to the dispatcher, in the order in which it is to hear of it: leavers first.

A leaver overtakes what waits, so that the very next Step releases its row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

from router.dispatch.step_pipeline import Named
from router.requests.record import Record
from router.shards.group import Report

PULSE_SECONDS = 1.0
"""Longest time between two looks at the shards' health."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A request has its Record, its pages have names, and it wants to run."""

    record: Record
    named: Named


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request's caller has left, or someone has stopped it."""

    record: Record


Event = Submit | Cancel | Report


class Inbox:
    """Events of one loop; many put, one takes."""

    def __init__(self) -> None:
        self._events: asyncio.PriorityQueue[tuple[bool, int, Event]] = asyncio.PriorityQueue()
        self._numbers = count()

    def put(self, event: Event) -> None:
        """Never waits."""
        self._events.put_nowait((not isinstance(event, Cancel), next(self._numbers), event))

    async def take(self) -> Event | None:
        """The next event; None where there was none for `PULSE_SECONDS`."""
        try:
            async with asyncio.timeout(PULSE_SECONDS):
                return (await self._events.get())[2]
        except TimeoutError:
            return None
