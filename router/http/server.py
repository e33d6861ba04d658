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
    Incomplete,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RouterError,
    flat,
    nested,
)
from router.http.access import Access
from router.http.connections import SERVER, accept
from router.http.context import RECORDS, REQUEST_ID
from router.http.json_response import reply
from router.http.request_log import told
from router.http.sse import ClientGone
from router.native.routes import Front

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

GOODBYE_SECONDS = 2.0
"""At the end, time for the last bytes of answers to leave."""
BACKLOG = 1024
"""Connections that the system may hold before they are accepted."""

logger = logging.getLogger(__name__)


def application(
    front: Front,
    access: Access,
    more: Iterable[web.RouteDef] = (),
    around: Iterable[Middleware] = (),
) -> web.Application:
    """The routes of `front` and `more`, ready to be served, with `around` outside of them all."""
    app = web.Application(
        middlewares=[*around, told, _enveloped(access)], client_max_size=front.bounds.payload_limit
    )
    app.on_response_prepare.append(partial(_stamp, access))
    app.add_routes([*front.routes(), *more])
    return app


async def run(
    front: Front,
    listener: socket.socket,
    access: Access,
    more: Iterable[web.RouteDef] = (),
    around: Iterable[Middleware] = (),
    *,
    ready: Callable[[], None],
    drained: Callable[[], Awaitable[None]],
) -> None:
    """Serve on the bound `listener`; call `ready` once it listens, stop when `drained` returns."""
    app = application(front, access, more, around)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=GOODBYE_SECONDS)
    await runner.setup()
    try:
        open_door = await _listen(runner.server, front, listener, access)
        ready()
        await drained()
        open_door.close()
    finally:
        await runner.cleanup()


async def _listen(
    server: web.Server | None, front: Front, listener: socket.socket, access: Access
) -> asyncio.Server:
    connect = partial(
        accept,
        server,
        access.connections,
        keepalive_timeout=front.patience.keepalive,
        lingering_time=front.patience.linger,
        access_log=None,
    )
    loop = asyncio.get_running_loop()
    return await loop.create_server(connect, sock=listener, backlog=BACKLOG)


def _enveloped(access: Access) -> Middleware:
    @web.middleware
    async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request its id and its books, and every error its JSON form."""
        request[REQUEST_ID] = request_id = _request_id(request)
        request[RECORDS] = []
        try:
            return await _admitted(access, request, handler)
        except RouterError as error:
            return refusal(error, request.path)
        except web.HTTPException as error:
            return _translated(error, request.path)
        except ClientGone:
            return web.Response(status=499)
        except Exception:
            if request.writer.output_size:  # too late for a status: the connection is cut
                raise
            logger.exception("request %s", request_id)
            return refusal(Incomplete(), request.path)

    return envelope


async def _admitted(access: Access, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Path and method, then the key, then the handler."""
    if request.method == "OPTIONS":
        return web.Response()
    request, handler, match = await _collapsed(request, handler)
    if match.http_exception is not None:
        raise match.http_exception
    access.check(request.method, request.path, request.headers)
    return await handler(request)


async def _collapsed(
    request: web.Request, handler: Handler
) -> tuple[web.Request, Handler, web.UrlMappingMatchInfo]:
    """Take `//path` as `/path`: some clients join their base address carelessly."""
    path = re.sub("/{2,}", "/", request.rel_url.raw_path)
    if path == request.rel_url.raw_path:
        return request, handler, request.match_info
    clone = request.clone(rel_url=request.rel_url.with_path(path, encoded=True))
    match = await request.app.router.resolve(clone)
    return clone, match.handler, match


async def _stamp(access: Access, request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every response, streams included."""
    preflight = request.method == "OPTIONS"
    response.headers.update(access.cors(request.headers.get("Origin"), preflight=preflight))
    response.headers["x-request-id"] = request[REQUEST_ID]
    response.headers["Server"] = SERVER


def refusal(error: RouterError, path: str) -> web.Response:
    """The response of an error whose headers are not yet sent, in the form of the route."""
    openai = re.match("/+v1(/|$)", path)
    response = reply((nested if openai else flat)(error), error.headers, error.status)
    if error.headers.get("Connection") == "close":
        response.force_close()
    return response


def _translated(error: web.HTTPException, path: str) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return refusal(NotFound(), path)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refusal(PayloadTooLarge(), path)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = refusal(MethodNotAllowed(), path)
        response.headers["Allow"] = error.headers["Allow"]
        return response
    return refusal(BadRequest(), path)


def _request_id(request: web.Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else secrets.token_hex(16)
