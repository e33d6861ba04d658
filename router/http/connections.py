"""HTTP connections before there is a request: their maximum number, and malformed HTTP.

aiohttp has no limit, and answers what it cannot parse in plain text with the parser's message.
Here a connection above the limit gets a 503 and is closed, and malformed HTTP gets a JSON 400.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

import orjson
from aiohttp import web

from router.errors import BadRequest, Unavailable, native_error

SERVER_NAME = "tgi-laps"
"""Value of the `Server` header; it discloses no version."""

READ_SIZE = 1 << 16
"""Maximum bytes per read: they may hold a great many tiny chunks, all parsed in one go."""

logger = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One connection; malformed HTTP gets a JSON 400."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As in aiohttp, but with a smaller read size, which asyncio keeps as an attribute."""
        super().connection_made(transport)
        transport.max_size = READ_SIZE  # type: ignore[attr-defined]

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A 400 for a request that cannot be parsed. Raises ConnectionError once bytes are out."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already started")
        logger.debug("malformed HTTP: %s", exc)
        body = orjson.dumps(native_error(BadRequest()))
        response = web.Response(body=body, status=400, headers=_response_headers())
        response.force_close()
        return response


class RejectedConnection(asyncio.Protocol):
    """A connection above the limit: gets a 503 and is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(_rejection_bytes(Unavailable("Too many connections")))
        transport.close()


def accept_connection(
    server: web.Server | None, max_connections: int, **settings: Any
) -> asyncio.Protocol:
    """The protocol of a new connection to `server`, which has at most `max_connections`.

    Without a server (it is already torn down) every connection is rejected.
    """
    if server is None or len(server.connections) >= max_connections:
        return RejectedConnection()
    return Connection(server, loop=asyncio.get_running_loop(), **settings)


def _response_headers() -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "Server": SERVER_NAME,
        "x-request-id": secrets.token_hex(16),
    }


def _rejection_bytes(error: Unavailable) -> bytes:
    body = orjson.dumps(native_error(error))
    head = {**_response_headers(), **error.headers, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 503 Service Unavailable\r\n{lines}\r\n".encode() + body
