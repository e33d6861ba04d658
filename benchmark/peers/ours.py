"""This project's server, started by its launcher, as the others are by theirs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmark.peers.http_peer import HttpPeer, http_peer
from benchmark.peers.peer import MAX_CLIENTS, PeerFailed, PeerOptions
from benchmark.server.server import ServerFailed
from benchmark.server.watched_server import running


def flags(options: PeerOptions) -> tuple[str, ...]:
    """The launcher's flags."""
    return (
        *("--model-id", str(options.model), "--dtype", options.dtype),
        *("--max-batch-size", str(MAX_CLIENTS)),
        *("--measurement-cache", str(options.folder / "measurements")),
    )


@asynccontextmanager
async def started(options: PeerOptions) -> AsyncIterator[HttpPeer]:
    """See `StartPeer`."""
    try:
        async with (
            running(flags(options), os.environ) as server,
            http_peer(server.url, {"model": "any"}) as peer,
        ):
            yield peer
    except ServerFailed as error:
        raise PeerFailed(str(error)) from error
