"""Clients that hold a connection and do nothing with it.

Rule: decides how they connect, and when the server has closed them. They use plain sockets, so that
no client library reads or closes anything for them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import aiohttp

HEAD = b"POST /generate_stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HALF_OPEN = (
    b"",
    HEAD[:30],
    HEAD + b"Content-Length: 100\r\n\r\n",
    HEAD + b"Content-Length: 100\r\n\r\n{",
)
"""What connections send before they fall silent: nothing, half a head, a head, some of the body."""
RECEIVE_BUFFER_BYTES = 4096


@asynccontextmanager
async def half_open(url: str, count: int) -> AsyncIterator[Sequence[socket.socket]]:
    """`count` connections that have sent the beginning of a request, of each kind in turn."""
    async with _connections(url, [HALF_OPEN[n % len(HALF_OPEN)] for n in range(count)]) as opened:
        yield opened


@asynccontextmanager
async def never_reading(url: str, count: int, tokens: int) -> AsyncIterator[None]:
    """`count` clients that ask for a stream of `tokens` tokens with much detail and never read."""
    parameters = {"max_new_tokens": tokens, "ignore_eos_token": True, "top_n_tokens": 5}
    body = json.dumps({"inputs": "def main():", "parameters": parameters}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with _connections(url, [request] * count):
        yield


async def send_and_drain(url: str, requests: Sequence[bytes]) -> None:
    """Send each of `requests` on a connection of its own; read until the server closes it.

    The server may refuse and close before it has read everything.
    """
    address = urlsplit(url)

    async def send(data: bytes) -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        with suppress(ConnectionError):
            writer.write(data)
            await asyncio.gather(writer.drain(), reader.read())
        writer.close()

    await asyncio.gather(*map(send, requests))


async def seconds_until_closed(connections: Sequence[socket.socket]) -> float:
    """Seconds from now until the server has closed all of `connections`."""
    began = time.monotonic()
    await asyncio.gather(*map(_read_to_end, connections))
    return time.monotonic() - began


async def seconds_until_connections(opened: aiohttp.ClientSession, count: int) -> float:
    """Seconds from now until the server counts at most `count` open connections."""
    began = time.monotonic()
    while await gauge(opened, "tgi_connections") > count:  # noqa: ASYNC110  it has no event
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def gauge(opened: aiohttp.ClientSession, name: str) -> float:
    """The value of a metric without labels."""
    async with opened.get("/metrics") as response:
        text = await response.text()
    [line] = [line for line in text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])


@asynccontextmanager
async def _connections(url: str, sent: Sequence[bytes]) -> AsyncIterator[list[socket.socket]]:
    opened = list[socket.socket]()
    try:
        for data in sent:
            opened.append(await _connect(url))
            await asyncio.get_running_loop().sock_sendall(opened[-1], data)
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def _connect(url: str) -> socket.socket:
    address = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    return connection


async def _read_to_end(connection: socket.socket) -> None:
    with suppress(ConnectionResetError):
        while await asyncio.get_running_loop().sock_recv(connection, 4096):
            pass
