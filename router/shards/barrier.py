"""What every rank was asked to have ready, and who waits for it.

Rule: a wish is fulfilled when all ranks have said so, each once; they prepare as fast as they can,
and a row that needs it is sent only then, so that it starts in the same Step everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from shard.wire.protocol import ProtocolError


@dataclass(frozen=True, slots=True)
class _PendingPrepare:
    done: asyncio.Future[None]
    pending_ranks: set[int]
    """Ranks that are not ready."""

    def release(self) -> None:
        """Whoever waits goes on, unless it has left."""
        if not self.done.done():
            self.done.set_result(None)


class RankBarrier:
    """Those of one group of `ranks`."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._pending: dict[int, _PendingPrepare] = {}
        self._last_number = 0

    def open(self) -> tuple[int, Awaitable[None]]:
        """A new wish's number, and what waits until it is fulfilled or dropped."""
        self._last_number += 1
        wish = _PendingPrepare(asyncio.get_running_loop().create_future(), set(range(self._ranks)))
        self._pending[self._last_number] = wish
        return self._last_number, wish.done

    def acknowledge(self, rank: int, number: int) -> None:
        """Rank `rank` is ready. Raises ProtocolError if it was not asked."""
        wish = self._pending.get(number)
        if wish is None or rank not in wish.pending_ranks:
            raise ProtocolError(f"Prepared {number} answers nothing")
        wish.pending_ranks.discard(rank)
        if not wish.pending_ranks:
            self._pending.pop(number).release()

    def cancel_all(self) -> None:
        """Nobody will fulfil them any more."""
        while self._pending:
            self._pending.popitem()[1].release()
