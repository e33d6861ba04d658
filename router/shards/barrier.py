"""Prepare requests to all ranks, and the tasks that wait for them.

A prepare request completes once every rank has acknowledged it, each exactly once. A row that needs
the grammar is sent only then, so that it starts in the same step on every rank.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from dataclasses import dataclass

from shard.wire.protocol import ProtocolError


@dataclass(frozen=True, slots=True)
class _PendingPrepare:
    grammar: str
    done: asyncio.Future[None]
    pending_ranks: set[int]
    """Ranks that have not acknowledged the request."""

    def release(self) -> None:
        """Wake the waiting task, unless it was cancelled."""
        if not self.done.done():
            self.done.set_result(None)


class RankBarrier:
    """The open prepare requests of a group of `ranks` ranks."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._pending: dict[int, _PendingPrepare] = {}
        self._last_number = 0

    @property
    def grammars(self) -> Collection[str]:
        """The grammars that some rank has not prepared, in the order of the requests."""
        return dict.fromkeys(request.grammar for request in self._pending.values()).keys()

    def open(self, grammar: str) -> tuple[int, Awaitable[None]]:
        """Open a request: its number, and what to await until it is complete or cancelled."""
        self._last_number += 1
        done = asyncio.get_running_loop().create_future()
        self._pending[self._last_number] = _PendingPrepare(grammar, done, set(range(self._ranks)))
        return self._last_number, done

    def acknowledge(self, rank: int, number: int) -> bool:
        """Note that `rank` is prepared; return whether every rank is.

        Raises ProtocolError if it owes no acknowledgement.
        """
        request = self._pending.get(number)
        if request is None or rank not in request.pending_ranks:
            raise ProtocolError(f"Prepared {number} does not answer an open request")
        request.pending_ranks.discard(rank)
        if request.pending_ranks:
            return False
        self._pending.pop(number).release()
        return True

    def cancel_all(self) -> None:
        """Wake all waiting tasks, since no rank will answer any more."""
        while self._pending:
            self._pending.popitem()[1].release()
