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
class _Wish:
    done: asyncio.Future[None]
    unheard: set[int]
    """Ranks that are not ready."""

    def end(self) -> None:
        """Whoever waits goes on, unless it has left."""
        if not self.done.done():
            self.done.set_result(None)


class Wishes:
    """Those of one group of `ranks`."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._open: dict[int, _Wish] = {}
        self._last = 0

    def make(self) -> tuple[int, Awaitable[None]]:
        """A new wish's number, and what waits until it is fulfilled or dropped."""
        self._last += 1
        wish = _Wish(asyncio.get_running_loop().create_future(), set(range(self._ranks)))
        self._open[self._last] = wish
        return self._last, wish.done

    def fulfil(self, rank: int, number: int) -> None:
        """Rank `rank` is ready. Raises ProtocolError if it was not asked."""
        wish = self._open.get(number)
        if wish is None or rank not in wish.unheard:
            raise ProtocolError(f"Prepared {number} answers nothing")
        wish.unheard.discard(rank)
        if not wish.unheard:
            self._open.pop(number).end()

    def drop(self) -> None:
        """Nobody will fulfil them any more."""
        while self._open:
            self._open.popitem()[1].end()
