"""Permits, one for each sequence; none are given while the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from router.errors import Overloaded, Unavailable


class Admission:
    """`capacity` permits. A permit is bound to a `with`, so it cannot leak."""

    def __init__(self, capacity: int, estimate_wait: Callable[[int], float]) -> None:
        """`estimate_wait`: seconds until so many more permits are free."""
        self.draining = False
        self._capacity = capacity
        self._estimate_wait = estimate_wait
        self.held = 0
        """Number of permits that are held."""
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Hold all of `count` permits. Raises Overloaded, or Unavailable while draining."""
        if self.draining:
            raise Unavailable("Server is shutting down")
        missing = self.held + count - self._capacity
        if missing > 0:
            raise Overloaded(self._estimate_wait(missing))
        self.held += count
        self._idle.clear()
        try:
            yield
        finally:
            self.held -= count
            if not self.held:
                self._idle.set()

    async def drain(self) -> None:
        """Stop giving permits, and wait until none is held."""
        self.draining = True
        await self._idle.wait()
