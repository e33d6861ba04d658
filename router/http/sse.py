"""Server-sent events on one response: framing, keep-alive comments, and a write timeout.

An event is `data: ` + JSON + a blank line. A comment is sent after `interval` seconds without an
event, so that no proxy takes a waiting request for an idle connection. A client that does not read
for `stall` seconds is disconnected, since its request occupies the server. The content of events is
decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import web

COMMENT: Final = b":\n\n"
HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def encode_event(payload: bytes) -> bytes:
    """One event. `payload` is JSON, so it holds no raw newline."""
    return b"data: " + payload + b"\n\n"


class ClientDisconnected(Exception):
    """The client has disconnected or does not read; nothing more can be sent."""


class EventStream:
    """A response whose headers have been sent; `write` events to it, one at a time."""

    def __init__(self, http: web.Request, response: web.StreamResponse, stall: float) -> None:
        self.response = response
        self._http, self._stall = http, stall
        self._event_written = asyncio.Event()

    async def write(self, payload: bytes) -> None:
        """Send one event. Raises ClientDisconnected."""
        self._event_written.set()
        await self._send(encode_event(payload))

    async def send_keepalives(self, interval: float) -> None:
        """Send a comment whenever `interval` seconds pass without an event."""
        with suppress(ClientDisconnected):  # the server cancels the handler of a lost connection
            while True:
                self._event_written.clear()
                try:
                    async with asyncio.timeout(interval):
                        await self._event_written.wait()
                except TimeoutError:
                    await self._send(COMMENT)

    async def _send(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._stall):
                await self.response.write(data)
        except (ConnectionError, TimeoutError) as fault:
            if self._http.transport is not None:
                self._http.transport.abort()
            raise ClientDisconnected from fault


@asynccontextmanager
async def open_event_stream(
    http: web.Request, headers: Mapping[str, str], *, interval: float, stall: float
) -> AsyncIterator[EventStream]:
    """Send the headers, then keep the connection alive until the `async with` is left."""
    response = web.StreamResponse(headers={**HEADERS, **headers})
    await response.prepare(http)
    stream = EventStream(http, response, stall)
    try:
        async with asyncio.TaskGroup() as group:
            comments = group.create_task(stream.send_keepalives(interval))
            yield stream
            comments.cancel()
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None  # only the body raises, and once
