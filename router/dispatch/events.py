"""What happens to the dispatcher, in the order in which it is to hear of it: leavers first.

A leaver overtakes what waits, so that the very next Step releases its row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

from router.dispatch.page_hashes import PromptPages
from router.requests.record import LiveRequest
from router.shards.group import GroupEvent

HEALTH_CHECK_SECONDS = 1.0
"""Longest time between two looks at the shards' health."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request has its Record, its pages have names, and it wants to run."""

    record: LiveRequest
    prompt_pages: PromptPages


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A request's caller has left, or someone has stopped it."""

    record: LiveRequest


Event = Submitted | CancelRequested | GroupEvent


class EventQueue:
    """Events of one loop; many put, one takes."""

    def __init__(self) -> None:
        self._events: asyncio.PriorityQueue[tuple[bool, int, Event]] = asyncio.PriorityQueue()
        self._sequence = count()

    def put(self, event: Event) -> None:
        """Never waits."""
        self._events.put_nowait(
            (not isinstance(event, CancelRequested), next(self._sequence), event)
        )

    async def get(self) -> Event | None:
        """The next event; None where there was none for `HEALTH_CHECK_SECONDS`."""
        try:
            async with asyncio.timeout(HEALTH_CHECK_SECONDS):
                return (await self._events.get())[2]
        except TimeoutError:
            return None
