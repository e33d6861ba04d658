"""The group of shards that serves, and the wait for the next one once it has failed.

The dispatcher decides when a group takes over from another, and when none will follow.
"""

from __future__ import annotations

import asyncio

from router.errors import Unavailable
from router.shards.group import ShardGroup


class CurrentShards:
    """One group after the other; `group` may have failed, until `replace` is called."""

    def __init__(self, group: ShardGroup) -> None:
        self.group = group
        self._replaced = asyncio.Event()
        self._closed = False

    def replace(self, group: ShardGroup) -> None:
        """Serve with `group` from now on."""
        self.group = group
        self._replaced.set()
        self._replaced = asyncio.Event()

    def close(self) -> None:
        """No other group will follow."""
        self._closed = True
        self._replaced.set()

    async def prepare_grammar(self, grammar: str) -> None:
        """Wait until every rank of a group that serves is prepared for rows with `grammar`.

        Raises Unavailable if none will.
        """
        while not self._closed:
            group, replaced = self.group, self._replaced
            await group.prepare_grammar(grammar)
            if group.failure is None:
                return
            await replaced.wait()
        raise Unavailable("Model is unavailable")
