"""How the router logs: to stderr, which the launcher shows, at the level that LOG_LEVEL names.

A line tells each request's end, with its id and never its text; at debug level if it ended well.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from router.http.context import REQUEST_ID
from router.log_levels import ROUTER_TARGETS, effective_level

MAX_PATH_LENGTH = 200
"""Characters of a path that a line shows, as they were sent: encoded, so no line is forged."""

logger = logging.getLogger("router")


def configure(directives: str) -> None:
    """Log to stderr from now on; `directives` is LOG_LEVEL's value."""
    own = effective_level(directives, ROUTER_TARGETS)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=own)


@web.middleware
async def log_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log how the request ended, streams included."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    response = await handler(request)
    quiet = response.status < 500  # a line for each would fill a pipe that nobody reads
    logger.log(
        logging.DEBUG if quiet else logging.INFO,
        "request %s: %s %s %d in %.3f s",
        *(request[REQUEST_ID], request.method, request.rel_url.raw_path[:MAX_PATH_LENGTH]),
        *(response.status, loop.time() - started),
    )
    return response
