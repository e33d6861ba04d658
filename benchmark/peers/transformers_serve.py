"""transformers' own server, `transformers serve --continuous-batching`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from benchmark.peers.http_peer import TIMEOUT_SECONDS, HttpPeer, child, http_peer
from benchmark.peers.peer import PeerFailed, PeerOptions

POLL_SECONDS = 0.2


@asynccontextmanager
async def started(options: PeerOptions) -> AsyncIterator[HttpPeer]:
    """See `StartPeer`."""
    port = _free_port()
    program = str(options.python.with_name("transformers"))
    flags = ("--continuous-batching", "--dtype", options.dtype, "--device", "cpu")
    address = ("--host", "127.0.0.1", "--port", str(port))
    command = (str(options.python), program, "serve", str(options.model), *flags, *address)
    async with (
        child(*command),
        http_peer(f"http://127.0.0.1:{port}", {"model": str(options.model)}) as peer,
    ):
        await _until_ready(f"http://127.0.0.1:{port}/health")
        yield peer


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # it does not listen yet
            await asyncio.sleep(POLL_SECONDS)
    raise PeerFailed("transformers serve is not ready")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
