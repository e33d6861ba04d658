"""The group of shards that serves, and the wait for the next one once it has failed.

The dispatcher decides when a group takes over from another, and when none will follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from router.dispatch.events import HEALTH_CHECK_SECONDS
from router.dispatch.grammar_trials import GrammarTrials
from router.errors import EngineFault, Unavailable
from router.shards.group import ShardGroup


class CurrentShards:
    """One group after the other; `group` may have failed, until `replace` is called."""

    def __init__(self, group: ShardGroup, load_seconds: float = 0.0) -> None:
        """`load_seconds`: what a start of the shards takes."""
        self.group = group
        self._load_seconds = load_seconds
        self._failed_at: float | None = None
        self._grammars = GrammarTrials()
        self._changed = asyncio.Event()
        """Set when the group fails or is replaced; then there is a new one."""
        self.closed = False
        """Whether no other group will follow, and none serves."""

    def mark_failed(self, preparing: Collection[str], now: float) -> None:
        """The group has failed, while it prepared the grammars `preparing`."""
        self._failed_at = now
        self._grammars.note_failure(preparing)
        self._wake_all()

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
        self._wake_all()

    def close(self) -> None:
        """No other group will follow."""
        self.closed = True
        self._wake_all()

    def is_given_up(self, grammar: str | None) -> bool:
        """Whether groups have failed each time that they prepared `grammar`."""
        return grammar is not None and self._grammars.is_given_up(grammar)

    async def prepare_grammar(self, grammar: str) -> None:
        """Wait until every rank of a group that serves is prepared for rows with `grammar`.

        Raises EngineFault if groups fail each time that they prepare it, and Unavailable if none
        will serve.
        """
        with self._grammars.waiting(grammar):
            while not self.closed:
                if self._grammars.is_given_up(grammar):
                    raise EngineFault
                group, changed = self.group, self._changed
                await group.prepare_grammar(grammar)
                if group.failure is None:
                    return
                await changed.wait()
        raise Unavailable("Model is unavailable")

    async def prepare_successor(self, group: ShardGroup, live: Sequence[str]) -> None:
        """Let `group` prepare the grammars `live`, and those that a group has failed with.

        It may fail meanwhile.
        """
        await self._grammars.run(group, live)

    def _wake_all(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


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
