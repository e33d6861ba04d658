"""HTTP connections before there is a request: their maximum number, and malformed HTTP.

aiohttp has no limit, and answers what it cannot parse in plain text with the parser's message.
Here a connection above the limit gets a 503 and is closed, and malformed HTTP gets a JSON 400, 414
or 431, in the form of the API whose path the request begins with. Each failure is one line of the
log.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from router.errors import RouterError, Unavailable, native_error
from router.http.fault_line import fault_line
from router.http.http_errors import BadRequest, HeadersTooLarge, UriTooLong
from router.http.route_group import ErrorFormat

SERVER_NAME = "tgi-laps"
"""Value of the `Server` header; it discloses no version."""

READ_SIZE = 1 << 16
"""Maximum bytes per read: they may hold a great many tiny chunks, all parsed in one go."""

MAX_URI_BYTES = 8192
"""Maximum length of path and query. It differs from MAX_HEADER_BYTES, since the parser reports only
which limit was exceeded."""
MAX_HEADER_BYTES = 8190
"""Maximum length of the name, and of the value, of a header."""

_REQUEST_LINE = re.compile(rb"[A-Z]{3,16} (/[^ ?\r\n]{0,1024})")
"""The beginning of a request with its path, of which this much is enough to know the API."""

logger = logging.getLogger(__name__)


class ConnectionCounts:
    """The connections of one server: those that are open, and how many were refused."""

    def __init__(self) -> None:
        self.server: web.Server | None = None
        """None before it serves, and once it is torn down."""
        self.refused = 0
        """Number of connections above the limit, since the start."""

    @property
    def open(self) -> int:
        """Number of open connections."""
        return 0 if self.server is None else len(self.server.connections)


CONNECTION_COUNTS: web.AppKey[ConnectionCounts] = web.AppKey("connection_counts")
"""Of an application: its connections."""


class Connection(web.RequestHandler):
    """One connection; malformed HTTP gets a JSON error."""

    __slots__ = ("_format_of", "_path")

    def __init__(
        self, *args: Any, format_of: Callable[[str], ErrorFormat], **settings: Any
    ) -> None:
        """`format_of` returns the form of errors below a path."""
        super().__init__(*args, **settings)
        self._format_of, self._path = format_of, ""

    def data_received(self, data: bytes) -> None:
        """Note the path of a request that begins with `data`, since the parser may reject it."""
        if line := _REQUEST_LINE.match(data):
            self._path = line[1].decode(errors="replace")
        super().data_received(data)

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
        """The response to a request that cannot be parsed.

        Raises ConnectionError once bytes are out.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already started")
        logger.debug("malformed HTTP: %s", exc and fault_line(exc))
        return early_response(_parser_error(exc), self._format_of(self._path))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an exception that aiohttp caught, in one line."""
        error = kw.get("exc_info")
        text = fault_line(error) if isinstance(error, BaseException) else str(args[:1])
        logger.error("connection closed: %s", text)


class RejectedConnection(asyncio.Protocol):
    """A connection above the limit: gets a 503 and is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(_rejection_bytes(Unavailable("Too many connections")))
        transport.close()


def accept_connection(
    counts: ConnectionCounts,
    max_connections: int,
    format_of: Callable[[str], ErrorFormat],
    **settings: Any,
) -> asyncio.Protocol:
    """The protocol of a new connection to a server, which has at most `max_connections`.

    `format_of` returns the form of errors below a path. Without a server (it is already torn down)
    every connection is rejected.
    """
    if counts.server is None or counts.open >= max_connections:
        counts.refused += 1
        return RejectedConnection()
    return Connection(
        counts.server,
        loop=asyncio.get_running_loop(),
        max_line_size=MAX_URI_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        auto_decompress=False,
        format_of=format_of,
        **settings,
    )


def early_response(error: RouterError, error_format: ErrorFormat) -> web.Response:
    """The response to a request that no route sees; the connection is closed after it."""
    body = orjson.dumps(error_format(error))
    response = web.Response(body=body, status=error.status, headers=_response_headers())
    response.force_close()
    return response


def _parser_error(error: BaseException | None) -> RouterError:
    if isinstance(error, LineTooLong):
        return UriTooLong() if error.args[1] == MAX_URI_BYTES else HeadersTooLarge()
    too_many = isinstance(error, BadHttpMessage) and error.message.startswith("Too many headers")
    return HeadersTooLarge() if too_many else BadRequest()


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
