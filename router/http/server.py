"""The HTTP server: which path is whose, the request id, and the form in which errors leave.

Every error is JSON, also the framework's own. aiohttp's defaults are unsafe here: handlers that
outlive their client, connections that idle for an hour or without number; `run` sets what the wire
promises. One middleware holds the order of what comes before a handler: path, method, key.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware

from router.errors import (
    BadRequest,
    IncompleteGeneration,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RouterError,
    native_error,
    openai_error,
)
from router.http.access import AccessPolicy
from router.http.connections import SERVER_NAME, accept_connection
from router.http.context import RECORDS, REQUEST_ID
from router.http.json_response import json_response
from router.http.request_log import log_request
from router.http.sse import ClientDisconnected
from router.native.routes import Gateway

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID_FORMAT = re.compile(r"[A-Za-z0-9._:-]{1,128}")

SHUTDOWN_TIMEOUT_SECONDS = 2.0
"""At the end, time for the last bytes of answers to leave."""
LISTEN_BACKLOG = 1024
"""Connections that the system may hold before they are accepted."""

logger = logging.getLogger(__name__)


def build_application(
    gateway: Gateway,
    access: AccessPolicy,
    extra_routes: Iterable[web.RouteDef] = (),
    middlewares: Iterable[Middleware] = (),
) -> web.Application:
    """The routes of `front` and `more`, ready to be served, with `around` outside of them all."""
    app = web.Application(
        middlewares=[*middlewares, log_request, _error_middleware(access)],
        client_max_size=gateway.bounds.payload_limit,
    )
    app.on_response_prepare.append(partial(_set_common_headers, access))
    app.add_routes([*gateway.routes(), *extra_routes])
    return app


async def run_server(
    gateway: Gateway,
    listener: socket.socket,
    access: AccessPolicy,
    extra_routes: Iterable[web.RouteDef] = (),
    middlewares: Iterable[Middleware] = (),
    *,
    on_ready: Callable[[], None],
    wait_drained: Callable[[], Awaitable[None]],
) -> None:
    """Serve on the bound `listener`; call `ready` once it listens, stop when `drained` returns."""
    app = build_application(gateway, access, extra_routes, middlewares)
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS
    )
    await runner.setup()
    try:
        open_door = await _listen(runner.server, gateway, listener, access)
        on_ready()
        await wait_drained()
        open_door.close()
    finally:
        await runner.cleanup()


async def _listen(
    server: web.Server | None, gateway: Gateway, listener: socket.socket, access: AccessPolicy
) -> asyncio.Server:
    connect = partial(
        accept_connection,
        server,
        access.max_connections,
        keepalive_timeout=gateway.timeouts.keepalive,
        lingering_time=gateway.timeouts.linger,
        access_log=None,
    )
    loop = asyncio.get_running_loop()
    return await loop.create_server(connect, sock=listener, backlog=LISTEN_BACKLOG)


def _error_middleware(access: AccessPolicy) -> Middleware:
    @web.middleware
    async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request its id and its books, and every error its JSON form."""
        request[REQUEST_ID] = request_id = _request_id(request)
        request[RECORDS] = []
        try:
            return await _authorize_and_handle(access, request, handler)
        except RouterError as error:
            return error_response(error, request.path)
        except web.HTTPException as error:
            return _translate_http_error(error, request.path)
        except ClientDisconnected:
            return web.Response(status=499)
        except Exception:
            if request.writer.output_size:  # too late for a status: the connection is cut
                raise
            logger.exception("request %s", request_id)
            return error_response(IncompleteGeneration(), request.path)

    return envelope


async def _authorize_and_handle(
    access: AccessPolicy, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """Path and method, then the key, then the handler."""
    if request.method == "OPTIONS":
        return web.Response()
    request, handler, match = await _collapse_slashes(request, handler)
    if match.http_exception is not None:
        raise match.http_exception
    access.authorize(request.method, request.path, request.headers)
    return await handler(request)


async def _collapse_slashes(
    request: web.Request, handler: Handler
) -> tuple[web.Request, Handler, web.UrlMappingMatchInfo]:
    """Take `//path` as `/path`: some clients join their base address carelessly."""
    path = re.sub("/{2,}", "/", request.rel_url.raw_path)
    if path == request.rel_url.raw_path:
        return request, handler, request.match_info
    clone = request.clone(rel_url=request.rel_url.with_path(path, encoded=True))
    match = await request.app.router.resolve(clone)
    return clone, match.handler, match


async def _set_common_headers(
    access: AccessPolicy, request: web.Request, response: web.StreamResponse
) -> None:
    """The headers of every response, streams included."""
    preflight = request.method == "OPTIONS"
    response.headers.update(access.cors_headers(request.headers.get("Origin"), preflight=preflight))
    response.headers["x-request-id"] = request[REQUEST_ID]
    response.headers["Server"] = SERVER_NAME


def error_response(error: RouterError, path: str) -> web.Response:
    """The response of an error whose headers are not yet sent, in the form of the route."""
    openai = re.match("/+v1(/|$)", path)
    response = json_response(
        (openai_error if openai else native_error)(error), error.headers, error.status
    )
    if error.headers.get("Connection") == "close":
        response.force_close()
    return response


def _translate_http_error(error: web.HTTPException, path: str) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return error_response(NotFound(), path)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return error_response(PayloadTooLarge(), path)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = error_response(MethodNotAllowed(), path)
        response.headers["Allow"] = error.headers["Allow"]
        return response
    return error_response(BadRequest(), path)


def _request_id(request: web.Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID_FORMAT.fullmatch(given) else secrets.token_hex(16)
