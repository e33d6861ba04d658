"""What the layers around a route may read of a request, and how long the server waits for it."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from router.requests.record import LiveRequest

REQUEST_ID = web.RequestKey("request_id", str)
RECORDS = web.RequestKey("records", list[LiveRequest])
"""What a request set going; whoever is around the routes may read it."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that the server waits for a client."""

    body: float = 30.0
    """For the whole body."""
    comment_interval: float = 15.0
    """Between the events of a stream, before a comment."""
    stall: float = 30.0
    """For a stream's reader to read."""
    keepalive: float = 15.0
    """For the next request of a connection."""
    linger: float = 2.0
    """For the rest of a refused body, so that its sender reads the refusal."""
