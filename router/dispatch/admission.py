"""Who may come in: permits, one for each sequence, and no more of them while the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from router.errors import Overloaded, Unavailable


class Admission:
    """`most` permits. A permit is tied to the life of a `with`, so it cannot leak."""

    def __init__(self, capacity: int) -> None:
        self.draining = False
        self._capacity = capacity
        self._held = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """`count` permits, or none: raises Overloaded, and Unavailable while draining."""
        if self.draining:
            raise Unavailable("Server is shutting down")
        if self._held + count > self._capacity:
            raise Overloaded
        self._held += count
        self._idle.clear()
        try:
            yield
        finally:
            self._held -= count
            if not self._held:
                self._idle.set()

    async def drain(self) -> None:
        """Give no permit any more, and wait until none is held."""
        self.draining = True
        await self._idle.wait()
