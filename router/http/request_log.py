"""The router's log: on stderr, which the launcher forwards, at the level that LOG_LEVEL names.

One line for each request when it ends, with its id and never its text; at debug level unless it
failed with a server error. What failed unexpectedly is part of that line.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from router.http.context import FAULT, REQUEST_ID
from router.log_levels import ROUTER_TARGETS, effective_level

MAX_PATH_LENGTH = 200
"""Maximum characters of a logged path; it stays percent-encoded, so no line can be forged."""

logger = logging.getLogger("router")


def configure(directives: str) -> None:
    """Start to log to stderr; `directives` is the value of LOG_LEVEL."""
    level = effective_level(directives, ROUTER_TARGETS)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)


@web.middleware
async def log_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log how the request ended, streams included."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    response = await handler(request)
    quiet = response.status < 500  # one line per request could fill a pipe without a reader
    logger.log(
        logging.ERROR if FAULT in request else logging.DEBUG if quiet else logging.INFO,
        "request %s: %s %s %d in %.3f s%s",
        request[REQUEST_ID],
        request.method,
        request.rel_url.raw_path[:MAX_PATH_LENGTH],
        response.status,
        loop.time() - started,
        f": {request[FAULT]}" if FAULT in request else "",
    )
    return response
