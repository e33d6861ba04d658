"""Connections in memory whose bytes arrive late and in pieces, as the random numbers say.

Rule: decides when which bytes arrive. Bytes arrive in order and none is lost, until a side aborts:
then the other side gets what was sent before, and the end. What the bytes mean is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from zlib import crc32

SPLIT_PROBABILITY = 0.1
"""Of a write that arrives in pieces."""
MAX_PIECES = 4
LATE_PROBABILITY, LATE_SECONDS = 0.05, 0.02
"""Of a piece that is delayed, and its mean delay."""
USUAL_SECONDS = 1e-4
"""Delay of other pieces."""
_ORDER_SECONDS = 1e-6
"""Minimum time between two pieces of a connection, which keeps them in order."""


class VirtualNetwork:
    """Listeners by path, and a checksum of all that was ever delivered."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._listeners: dict[str, Callable[[], asyncio.Protocol]] = {}
        self.checksum = 0
        """CRC-32 of each delivery's time and bytes: equal runs have equal checksums."""

    def listen(self, path: str, factory: Callable[[], asyncio.Protocol]) -> None:
        """Accept connections at `path` from now on."""
        self._listeners[path] = factory

    def close(self, path: str) -> None:
        """Refuse connections at `path` from now on."""
        self._listeners.pop(path, None)

    async def connect(
        self, factory: Callable[[], asyncio.Protocol], path: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect a new protocol to the listener at `path`. Raises ConnectionRefusedError."""
        await asyncio.sleep(self.delay())
        listener = self._listeners.get(path)
        if listener is None:
            raise ConnectionRefusedError(path)
        near, far = VirtualTransport(self, factory()), VirtualTransport(self, listener())
        near.peer, far.peer = far, near
        for end in (far, near):
            end.protocol.connection_made(end)
        return near, near.protocol

    def delay(self) -> float:
        """Seconds until a piece that is sent now arrives."""
        random = self._random
        if random.random() >= LATE_PROBABILITY:
            return USUAL_SECONDS
        return random.expovariate(1 / LATE_SECONDS)

    def split(self, data: bytes) -> list[bytes]:
        """`data`, or the pieces in which it arrives."""
        random = self._random
        if len(data) < MAX_PIECES or random.random() >= SPLIT_PROBABILITY:
            return [data]
        cuts = sorted(random.sample(range(1, len(data)), random.randrange(1, MAX_PIECES)))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def record(self, data: bytes, now: float) -> None:
        """Include a delivery in the checksum."""
        self.checksum = crc32(data, crc32(b"%r" % now, self.checksum))


class VirtualTransport(asyncio.Transport):
    """One side of a connection."""

    peer: VirtualTransport

    def __init__(self, network: VirtualNetwork, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._last_arrival = 0.0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, unless this side has ended."""
        if not self._closed:
            for piece in self._network.split(bytes(data)):
                self._send(piece)

    def abort(self) -> None:
        """End both sides; the other one gets what was sent before."""
        if not self._closed:
            self._send(None)
            self._end()

    def is_closing(self) -> bool:
        """Whether this side has ended."""
        return self._closed

    def _send(self, piece: bytes | None) -> None:
        arrival = self._loop.time() + self._network.delay()
        self._last_arrival = max(arrival, self._last_arrival + _ORDER_SECONDS)
        self._loop.call_at(self._last_arrival, self.peer._receive, piece)

    def _receive(self, piece: bytes | None) -> None:
        if self._closed:
            return
        self._network.record(piece or b"", self._loop.time())
        if piece is None:
            self._end()
        else:
            self.protocol.data_received(piece)

    def _end(self) -> None:
        self._closed = True
        self._loop.call_soon(self.protocol.connection_lost, None)
