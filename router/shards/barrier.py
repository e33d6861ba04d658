"""Requests to all ranks to prepare something, and the tasks that wait for their answers.

A request completes once every rank has answered it, each exactly once. A row that needs the grammar
or the adapter is sent only then, so that it starts in the same step on every rank.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shard.wire.protocol import ProtocolError

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _PendingRequest(Generic[Answer]):
    subject: str
    done: asyncio.Future[list[Answer]]
    pending_ranks: set[int]
    """Ranks that have not answered the request."""
    answers: list[Answer] = field(default_factory=list)

    def release(self) -> None:
        """Wake the waiting task, unless it was cancelled."""
        if not self.done.done():
            self.done.set_result(self.answers)


class RankBarrier(Generic[Answer]):
    """The open requests of one kind to a group of `ranks` ranks."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._pending: dict[int, _PendingRequest[Answer]] = {}
        self._last_number = 0

    @property
    def subjects(self) -> Collection[str]:
        """What some rank has not prepared, in the order of the requests."""
        return dict.fromkeys(request.subject for request in self._pending.values()).keys()

    def open(self, subject: str) -> tuple[int, Awaitable[list[Answer]]]:
        """Open a request: its number, and what to await until it is complete or cancelled."""
        self._last_number += 1
        done = asyncio.get_running_loop().create_future()
        self._pending[self._last_number] = _PendingRequest(subject, done, set(range(self._ranks)))
        return self._last_number, done

    def acknowledge(self, rank: int, number: int, answer: Answer) -> bool:
        """Note the answer of `rank`; return whether every rank has answered.

        Raises ProtocolError if it owes no answer.
        """
        request = self._pending.get(number)
        if request is None or rank not in request.pending_ranks:
            kind = type(answer).__name__
            raise ProtocolError(f"{kind} {number} does not answer an open request")
        request.pending_ranks.discard(rank)
        request.answers.append(answer)
        if request.pending_ranks:
            return False
        self._pending.pop(number).release()
        return True

    def cancel_all(self) -> None:
        """Wake all waiting tasks, since no rank will answer any more."""
        while self._pending:
            self._pending.popitem()[1].release()
