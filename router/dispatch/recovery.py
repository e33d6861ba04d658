"""Reconnecting to the shards whenever they have been started again after a failure.

Here: the order of report, wait and reconnection, and which ranks may take over. The launcher
decides whether and when the shards are started again, and the dispatcher what the requests do
meanwhile. Each start of the shards is a generation, with a number from 1 on that launcher and
router share, so that a report about one is never taken for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from router.shards.group import ShardGroup, ShardGroupFailed
from shard.wire.protocol import Ready

EQUAL_FIELDS = ("model", "device", "dtype", "page_size", "vocab_size", "speculate", "drafter")
"""Fields of Ready that a rank must have again after a restart."""
MINIMUM_FIELDS = ("pages", "max_rows", "max_length", "host_pages")
"""Fields of Ready that may only grow: the scheduler goes on with the first values."""

Connect = Callable[[], AbstractAsyncContextManager[ShardGroup]]


class Resumable(Protocol):
    """The dispatcher."""

    async def resume(self, shards: ShardGroup) -> None:
        """Go on with `shards`."""


async def keep_connected(
    shards: ShardGroup,
    generation: int,
    connect: Connect,
    dispatcher: Resumable,
    report: Callable[[int, str], None],
    started: asyncio.Queue[int],
) -> None:
    """Resume `dispatcher` on a new group whenever the last one has failed.

    The first one is `shards`, of number `generation`. `report` gets the generation that has failed
    and the reason. `started` yields the generations that are ready to be connected to.
    """
    required = shards.ready_messages
    failure = await shards.wait_failed()
    while True:
        report(generation, str(failure))
        generation = await _next_generation(generation, started)
        try:
            async with connect() as group:
                require_successor(required, group.ready_messages)
                await dispatcher.resume(group)
                failure = await group.wait_failed()
        except ShardGroupFailed as error:
            failure = error


async def _next_generation(generation: int, started: asyncio.Queue[int]) -> int:
    """The next generation to start after `generation`."""
    while (number := await started.get()) <= generation:
        pass
    return number


def require_successor(required: Sequence[Ready], ready: Sequence[Ready]) -> None:
    """Raise ShardGroupFailed if ranks with the messages `ready` cannot replace the first ones."""
    for name in EQUAL_FIELDS + MINIMUM_FIELDS:
        wanted = min(getattr(rank, name) for rank in required)
        for rank in ready:
            value = getattr(rank, name)
            if value != wanted and not (name in MINIMUM_FIELDS and value > wanted):
                raise ShardGroupFailed(
                    f"rank {rank.rank} came back with {name} {value!r} instead of {wanted!r}"
                )
