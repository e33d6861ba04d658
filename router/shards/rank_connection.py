"""One rank's connection: sends frames, and passes every message that arrives to its owner.

The owner decides what a message means, and what follows from the end of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from shard.wire.protocol import (
    HEADER_BYTES,
    VERSION,
    Hello,
    Message,
    ProtocolError,
    body_length,
    pack,
    unpack,
)


class ConnectionOwner(Protocol):
    """Gets what arrives on the connections of all ranks."""

    def on_message(self, rank: int, message: Message) -> None:
        """Handle a message. A ProtocolError ends the connection."""

    def on_disconnect(self, rank: int, reason: str) -> None:
        """Handle the end of a connection. May be called more than once for a rank."""


class RankConnection(asyncio.Protocol):
    """The connection to the Unix socket of rank `rank` of `world_size`."""

    def __init__(self, owner: ConnectionOwner, rank: int, world_size: int) -> None:
        self._owner = owner
        self._rank = rank
        self._hello = Hello(VERSION, rank, world_size)
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    async def connect(self, path: str) -> None:
        """Connect to the socket at `path` and send Hello. Raises OSError."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, path)

    def write(self, frame: bytes) -> None:
        """Queue `frame` for sending; never blocks."""
        if self._transport:
            self._transport.write(frame)

    def close(self) -> None:
        """Close the connection at once, without sending what is queued."""
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  narrows the type
        self._transport = transport
        self.write(pack(self._hello))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            for body in self._frames():
                self._owner.on_message(self._rank, unpack(body))
        except ProtocolError as error:
            self._owner.on_disconnect(self._rank, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.on_disconnect(self._rank, "the connection was closed")

    def _frames(self) -> Iterator[bytes]:
        while len(self._buffer) >= HEADER_BYTES:
            end = HEADER_BYTES + body_length(bytes(self._buffer[:HEADER_BYTES]))
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER_BYTES:end])
            del self._buffer[:end]
            yield body
