"""HTTP connections before there is a request: how many there may be, and what broken ones are told.

aiohttp has no cap and answers what it cannot parse in plain text, with the parser's words; here a
connection above the cap is answered 503 and closed, and broken HTTP gets a 400 in JSON.
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
"""Value of the `Server` header; versions are nobody's business."""

READ_SIZE = 1 << 16
"""Most bytes that are read at once: there may be a great many tiny chunks in them."""

logger = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One connection; what is no HTTP is answered in JSON like every other error."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As aiohttp does, but for the size of a read, which asyncio has as an attribute."""
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
            raise ConnectionError("an answer is already on its way")
        logger.debug("a connection broke HTTP's rules: %s", exc)
        body = orjson.dumps(native_error(BadRequest()))
        response = web.Response(body=body, status=400, headers=_response_headers())
        response.force_close()
        return response


class RejectedConnection(asyncio.Protocol):
    """A connection above the cap: told so, and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(_rejection_bytes(Unavailable("Too many connections")))
        transport.close()


def accept_connection(
    server: web.Server | None, max_connections: int, **settings: Any
) -> asyncio.Protocol:
    """The protocol of a new connection to `server`, of which there are at most `most`.

    Without a server, one that is already torn down, nobody is let in.
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
