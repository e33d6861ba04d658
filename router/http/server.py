"""The HTTP server: one application of all route groups, the request id, and errors as JSON.

Every error is JSON, also the framework's own. aiohttp's defaults are unsafe here: handlers that
outlive their client, connections that stay idle for an hour, or without a limit on their number;
`run_server` sets what the wire contract promises. One middleware holds the order of what comes
before a handler: path, method, key.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware

from router.errors import IncompleteGeneration, RouterError
from router.http.access import AccessPolicy
from router.http.connections import (
    CONNECTION_COUNTS,
    SERVER_NAME,
    ConnectionCounts,
    accept_connection,
    early_response,
)
from router.http.context import (
    CACHE_SCOPE,
    CALLER,
    ERROR_FORMAT,
    FAULT,
    PATH_PARAMETERS,
    RECEIVED_PATH,
    RECORDS,
    REQUEST_ID,
)
from router.http.fault_line import fault_line
from router.http.gateway import Timeouts
from router.http.http_errors import (
    BadRequest,
    ExpectationFailed,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from router.http.json_response import json_response
from router.http.request_log import log_request
from router.http.route_group import ErrorFormat, RouteGroup, error_format_of, group_of
from router.http.sse import ClientDisconnected

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ERROR_FORMAT_OF: web.AppKey[Callable[[str], ErrorFormat]] = web.AppKey("error_format_of")
"""Of an application: the form of errors below a path."""
_REQUEST_ID_FORMAT = re.compile(r"[A-Za-z0-9._:-]{1,128}")

SHUTDOWN_TIMEOUT_SECONDS = 2.0
"""At the end, time for the last bytes of responses to leave."""
LISTEN_BACKLOG = 1024
"""Connections that the system may hold before they are accepted."""
MAX_UNSENT_BYTES = 16384
"""Bytes of a response that the system buffers and has not sent; its default is megabytes."""


def build_application(
    groups: Sequence[RouteGroup],
    access: AccessPolicy,
    payload_limit: int,
    middlewares: Iterable[Middleware] = (),
) -> web.Application:
    """All routes of `groups`, with `middlewares` outside of them; bodies up to `payload_limit`
    bytes.
    """
    app = web.Application(
        middlewares=[*middlewares, log_request, _error_middleware(access)],
        client_max_size=payload_limit,
    )
    app[ERROR_FORMAT_OF] = lambda path: error_format_of(_normalized(path), groups)
    app[CONNECTION_COUNTS] = ConnectionCounts()
    app.on_response_prepare.append(partial(_set_common_headers, access, groups))
    for group in groups:
        app.add_routes(group.routes)
    return app


async def run_server(
    app: web.Application,
    listener: socket.socket,
    max_connections: int,
    timeouts: Timeouts,
    *,
    on_ready: Callable[[], None],
    wait_drained: Callable[[], Awaitable[None]],
) -> None:
    """Serve on the bound `listener`; call `on_ready` once it listens, and stop when
    `wait_drained` returns. Connections that linger afterwards do not keep others from the port.
    """
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS
    )
    format_of = app[ERROR_FORMAT_OF]
    await runner.setup()
    try:
        _refuse_expectations(runner.server, format_of)
        app[CONNECTION_COUNTS].server = runner.server
        connect = partial(accept_connection, app[CONNECTION_COUNTS], max_connections, format_of)
        accepting = await _listen(connect, listener, timeouts)
        on_ready()
        await wait_drained()
        accepting.close()
    finally:
        await runner.cleanup()


def _refuse_expectations(
    server: web.Server | None, format_of: Callable[[str], ErrorFormat]
) -> None:
    """Answer 417 to expectations other than `100-continue` (RFC 9110, section 10.1.1).

    aiohttp refuses them outside of all middlewares, in plain text.
    """
    if server is None:
        return
    handle = server.request_handler

    async def checked(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "100-continue").lower() != "100-continue":
            return early_response(ExpectationFailed(), format_of(request.path))
        return await handle(request)

    server.request_handler = checked


async def _listen(
    connect: Callable[..., asyncio.Protocol], listener: socket.socket, timeouts: Timeouts
) -> asyncio.Server:
    connect = partial(
        connect,
        keepalive_timeout=timeouts.keepalive,
        lingering_time=timeouts.linger,
        access_log=None,
    )
    loop = asyncio.get_running_loop()
    # before the first connection, which inherits them and may linger in TIME_WAIT
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
    return await loop.create_server(connect, sock=listener, backlog=LISTEN_BACKLOG)


def _error_middleware(access: AccessPolicy) -> Middleware:
    @web.middleware
    async def render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Assign a request id, and render every error as JSON in the form of its route."""
        received = request
        request[REQUEST_ID] = _request_id(request)
        request[RECORDS] = []
        request[RECEIVED_PATH] = request.rel_url.raw_path
        request[ERROR_FORMAT] = request.app[ERROR_FORMAT_OF](request.path)
        try:
            request, handler, match = await _normalize_path(request, handler)
            request[PATH_PARAMETERS] = match
            return await _authorize_and_handle(access, request, handler, match)
        except RouterError as error:
            return _error_response(error, request[ERROR_FORMAT])
        except web.HTTPException as error:
            return _translate_http_error(error, request[ERROR_FORMAT])
        except ClientDisconnected:
            return web.Response(status=499)
        except Exception as error:  # noqa: BLE001 - the request's line of the log names it
            received[FAULT] = fault_line(error)
            if request.writer.output_size:  # too late for a status
                return _cut(request)
            return _error_response(IncompleteGeneration(), request[ERROR_FORMAT])

    return render_errors


async def _authorize_and_handle(
    access: AccessPolicy, request: web.Request, handler: Handler, match: web.UrlMappingMatchInfo
) -> web.StreamResponse:
    """Path and method, then the key, then the handler."""
    if request.method == "OPTIONS":
        return web.Response()
    if match.http_exception is not None:
        raise match.http_exception
    caller = access.authorize(request.method, request.path, request.headers)
    request[CALLER], request[CACHE_SCOPE] = caller, access.cache_scope(caller)
    return await handler(request)


def _cut(request: web.Request) -> web.Response:
    """End the connection in the middle of a response."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _normalized(path: str) -> str:
    return re.sub("/{2,}", "/", path).rstrip("/") or "/"


async def _normalize_path(
    request: web.Request, handler: Handler
) -> tuple[web.Request, Handler, web.UrlMappingMatchInfo]:
    """Treat `//path/` as `/path`: some clients join their base address carelessly."""
    path = _normalized(request.rel_url.raw_path)
    if path == request.rel_url.raw_path:
        return request, handler, request.match_info
    clone = request.clone(rel_url=request.rel_url.with_path(path, encoded=True))
    match = await request.app.router.resolve(clone)
    return clone, match.handler, match


async def _set_common_headers(
    access: AccessPolicy,
    groups: Sequence[RouteGroup],
    request: web.Request,
    response: web.StreamResponse,
) -> None:
    """The headers of every response, streams included."""
    preflight = request.method == "OPTIONS"
    response.headers.update(access.cors_headers(request.headers, preflight=preflight))
    for name in ("x-request-id", *group_of(_normalized(request.path), groups).request_id_headers):
        response.headers[name] = request[REQUEST_ID]
    response.headers["Server"] = SERVER_NAME


def _error_response(error: RouterError, error_format: ErrorFormat) -> web.Response:
    """The response to an error that comes before the headers."""
    response = json_response(error_format(error), error.headers, error.status)
    if error.headers.get("Connection") == "close":
        response.force_close()
    return response


def _translate_http_error(error: web.HTTPException, error_format: ErrorFormat) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return _error_response(NotFound(), error_format)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return _error_response(PayloadTooLarge(), error_format)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = _error_response(MethodNotAllowed(), error_format)
        response.headers["Allow"] = error.headers["Allow"]
        return response
    return _error_response(BadRequest(), error_format)


def _request_id(request: web.Request) -> str:
    requested = request.headers.get("x-request-id", "")
    return requested if _REQUEST_ID_FORMAT.fullmatch(requested) else secrets.token_hex(16)
