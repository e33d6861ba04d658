"""The dispatcher's events, in the order in which it handles them: cancellations first.

A cancellation overtakes everything that waits, so that the very next Step releases its row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

from router.dispatch.page_hashes import PromptPages
from router.requests.record import LiveRequest
from router.shards.group import GroupEvent, ShardGroup

HEALTH_CHECK_SECONDS = 0.25
"""Maximum time between two checks of the shards' health."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A prepared request is ready to be scheduled."""

    record: LiveRequest
    prompt_pages: PromptPages


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A request's caller has disconnected, or it was cancelled by its id."""

    record: LiveRequest


@dataclass(frozen=True, slots=True)
class ShardsRestarted:
    """Another group serves from now on; it holds no rows yet."""

    shards: ShardGroup
    lost_adapters: tuple[int, ...] = ()
    """Numbers of adapters that it could not load."""


@dataclass(frozen=True, slots=True)
class ClientCaughtUp:
    """The client of a paused stream has read enough for it to go on."""


Event = Submitted | ClientCaughtUp | CancelRequested | GroupEvent | ShardsRestarted


class EventQueue:
    """Events of one loop, with many producers and one consumer."""

    def __init__(self) -> None:
        self._events: asyncio.PriorityQueue[tuple[bool, int, Event]] = asyncio.PriorityQueue()
        self._sequence = count()

    def put(self, event: Event) -> None:
        """Add an event; never blocks."""
        self._events.put_nowait(
            (not isinstance(event, CancelRequested), next(self._sequence), event)
        )

    async def get(self) -> Event | None:
        """The next event; None if there was none for `HEALTH_CHECK_SECONDS`."""
        try:
            async with asyncio.timeout(HEALTH_CHECK_SECONDS):
                return (await self._events.get())[2]
        except TimeoutError:
            return None
