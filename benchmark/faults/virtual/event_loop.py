"""An event loop whose clock jumps to the next timer, so that hours pass in milliseconds.

Rule: decides when callbacks run, and nothing else. It has no sockets, signals or threads; a
connection is made by the network that it is given. Nothing in it depends on real time, so a run is
a function of its seeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

START_SECONDS = 1000.0
"""What the clock shows at first."""


class Deadlock(RuntimeError):
    """No callback is ready, and no timer will make one ready."""


class Network(Protocol):
    """What connects to paths."""

    async def connect(
        self, factory: Callable[[], asyncio.Protocol], path: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to the listener at `path`. Raises OSError."""


class _TimeSkip:
    """Stands in for the loop's selector: waiting is moving the clock."""

    def __init__(self) -> None:
        self.now = START_SECONDS

    def select(self, timeout: float | None) -> tuple[()]:
        """Let `timeout` seconds pass. Raises Deadlock if there is no timer to wait for."""
        if timeout is None:
            raise Deadlock
        self.now += timeout
        return ()


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop in virtual time, whose Unix sockets are those of `network`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._selector = _TimeSkip()
        self._network = network

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._selector.now

    async def create_unix_connection(  # type: ignore[override]  # of its options none is used
        self, protocol_factory: Callable[[], asyncio.Protocol], path: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect within the virtual network. Raises OSError."""
        return await self._network.connect(protocol_factory, path)

    def _process_events(self, event_list: Any) -> None:
        """Nothing arrives from outside."""

    def _write_to_self(self) -> None:
        """Nothing waits in another thread."""
