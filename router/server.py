"""The HTTP server: which path is whose, the request id, and the form in which errors leave.

Every error is JSON, also the framework's own. aiohttp's defaults are unsafe here: handlers that
outlive their client, connections that idle for an hour; `run` sets what the wire promises.
"""

from __future__ import annotations

import logging
import re
import secrets
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from router import native
from router.errors import (
    BadRequest,
    Incomplete,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RouterError,
)
from router.routes import REQUEST_ID, Front, reply
from router.stream import ClientGone

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

GOODBYE_SECONDS = 2.0
"""At the end, time for the last bytes of answers to leave."""

logger = logging.getLogger(__name__)


def application(front: Front) -> web.Application:
    """The routes of `front`, ready to be served."""
    app = web.Application(
        middlewares=[envelope, collapse_slashes], client_max_size=front.bounds.payload_limit
    )
    app.router.add_post("/", front.compat_generate)
    app.router.add_post("/generate", front.generate)
    app.router.add_post("/generate_stream", front.generate_stream)
    for path in ("/", "/health", "/ping"):
        app.router.add_get(path, front.health)
    app.router.add_get("/health/live", front.live)
    app.router.add_get("/health/ready", front.ready)
    app.router.add_get("/info", front.info)
    app.router.add_get("/metrics", front.metrics)
    app.router.add_get("/requests/{request_id}", front.standing)
    app.router.add_delete("/requests/{request_id}", front.cancel)
    app.router.add_post("/cancel/{request_id}", front.cancel)
    return app


async def run(
    front: Front,
    listener: socket.socket,
    *,
    ready: Callable[[], None],
    drained: Callable[[], Awaitable[None]],
) -> None:
    """Serve on the bound `listener`; call `ready` once it listens, stop when `drained` returns."""
    runner = web.AppRunner(
        application(front),
        handler_cancellation=True,
        keepalive_timeout=front.patience.keepalive,
        lingering_time=front.patience.linger,
        access_log=None,
        shutdown_timeout=GOODBYE_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=1024).start()
        ready()
        await drained()
    finally:
        await runner.cleanup()


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, and every error its JSON form."""
    request[REQUEST_ID] = request_id = _request_id(request)
    try:
        response = await handler(request)
    except RouterError as error:
        response = refusal(error)
    except web.HTTPException as error:
        response = _translated(error)
    except ClientGone:
        response = web.Response(status=499)
    except Exception:
        if request.writer.output_size:  # too late for a status: the connection is cut
            raise
        logger.exception("request %s", request_id)
        response = refusal(Incomplete())
    if not response.prepared:
        response.headers["x-request-id"] = request_id
    return response


@web.middleware
async def collapse_slashes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve `//path` as `/path`: some clients join their base address carelessly."""
    path = re.sub("/{2,}", "/", request.rel_url.raw_path)
    if path == request.rel_url.raw_path:
        return await handler(request)
    clone = request.clone(rel_url=request.rel_url.with_path(path, encoded=True))
    match = await request.app.router.resolve(clone)
    return await match.handler(clone)


def refusal(error: RouterError) -> web.Response:
    """The response of an error whose headers are not yet sent."""
    response = reply(native.failure(error), error.headers, error.status)
    if error.headers.get("Connection") == "close":
        response.force_close()
    return response


def _translated(error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return refusal(NotFound())
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refusal(PayloadTooLarge())
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = refusal(MethodNotAllowed())
        response.headers["Allow"] = error.headers["Allow"]
        return response
    return refusal(BadRequest())


def _request_id(request: web.Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else secrets.token_hex(16)
