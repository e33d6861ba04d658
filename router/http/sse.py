"""Server-sent events on one response: framing, keep-alive comments, and a write timeout.

An event is `data: ` + JSON + a blank line, with an `event: ` line before it if it has a name. Many
clients split lines as Python's `str.splitlines` does, so the line separators that JSON allows in a
string are escaped. A stream to an HTTP/1.0 client ends with the connection.

A comment is sent after `interval` seconds without an event, so that no proxy takes a waiting
request for an idle connection. A client that does not read for `stall` seconds is disconnected,
since its request occupies the server. The content of events is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import HttpVersion11, web

COMMENT: Final = b":\n\n"
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


_LINE_SEPARATORS: Final = {
    b"\xc2\x85": b"\\u0085",
    b"\xe2\x80\xa8": b"\\u2028",
    b"\xe2\x80\xa9": b"\\u2029",
}
"""Characters in UTF-8 at which some clients end a line, and their JSON escapes. JSON escapes all
others, and these can occur only inside its strings."""


def encode_event(payload: bytes, name: str | None = None) -> bytes:
    """One event, called `name` if given. `payload` is JSON without newlines, in UTF-8."""
    for separator, escape in _LINE_SEPARATORS.items():
        payload = payload.replace(separator, escape)
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + payload + b"\n\n"


class ClientDisconnected(Exception):
    """The client has disconnected or does not read; nothing more can be sent."""


class EventStream:
    """A response whose headers have been sent; `write` events to it, one at a time."""

    def __init__(self, http: web.Request, response: web.StreamResponse, stall: float) -> None:
        self.response = response
        self._http, self._stall = http, stall
        self._event_written = asyncio.Event()

    async def write(self, payload: bytes, name: str | None = None) -> None:
        """Send one event, called `name` if given. Raises ClientDisconnected."""
        self._event_written.set()
        await self._send(encode_event(payload, name))

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
    if http.version < HttpVersion11:  # it has no chunks, so only the connection's end is an end
        response.force_close()
    await response.prepare(http)
    stream = EventStream(http, response, stall)
    try:
        async with asyncio.TaskGroup() as group:
            comments = group.create_task(stream.send_keepalives(interval))
            yield stream
            comments.cancel()
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None  # only the body raises, and once
