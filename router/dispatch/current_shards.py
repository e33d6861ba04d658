"""The group of shards that serves, and the wait for the next one once it has failed.

The dispatcher decides when a group takes over from another, and when none will follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from router.dispatch.events import HEALTH_CHECK_SECONDS
from router.errors import Unavailable
from router.shards.group import ShardGroup


class CurrentShards:
    """One group after the other; `group` may have failed, until `replace` is called."""

    def __init__(self, group: ShardGroup, load_seconds: float = 0.0) -> None:
        """`load_seconds`: what a start of the shards takes."""
        self.group = group
        self._load_seconds = load_seconds
        self._failed_at: float | None = None
        self._replaced = asyncio.Event()
        self.closed = False
        """Whether no other group will follow, and none serves."""

    def mark_failed(self, now: float) -> None:
        """The group has failed."""
        self._failed_at = now

    def seconds_to_restart(self, now: float) -> float:
        """Estimated seconds until a group serves: as many as it took the last time."""
        if self._failed_at is None:
            return 0.0
        return max(0.0, self._failed_at + self._load_seconds - now)

    def replace(self, group: ShardGroup, now: float) -> None:
        """Serve with `group` from now on."""
        if self._failed_at is not None:
            self._load_seconds, self._failed_at = now - self._failed_at, None
        self.group = group
        self._replaced.set()
        self._replaced = asyncio.Event()

    def close(self) -> None:
        """No other group will follow."""
        self.closed = True
        self._replaced.set()

    async def prepare_grammar(self, grammar: str) -> None:
        """Wait until every rank of a group that serves is prepared for rows with `grammar`.

        Raises Unavailable if none will.
        """
        while not self.closed:
            group, replaced = self.group, self._replaced
            await group.prepare_grammar(grammar)
            if group.failure is None:
                return
            await replaced.wait()
        raise Unavailable("Model is unavailable")


@asynccontextmanager
async def checking_health(group: ShardGroup, clock: Callable[[], float]) -> AsyncIterator[None]:
    """Check the health of `group`, which does not serve yet, during the `with`."""

    async def check() -> None:
        while True:
            group.check_health(clock())
            await asyncio.sleep(HEALTH_CHECK_SECONDS)

    checks = asyncio.ensure_future(check())
    try:
        yield
    finally:
        checks.cancel()
