"""How the router logs: to stderr, which the launcher shows, at the level that LOG_LEVEL names.

A line tells each request's end, with its id and never its text; at debug level if it ended well.
LOG_LEVEL may be one of TGI's filters, such as `info,text_generation_router=debug`: the part for
the router wins over the part for all, and what is not understood changes nothing.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from router.routes import REQUEST_ID

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
OWN = ("text_generation_router", "router")
"""Targets of a filter that mean this process."""


LONGEST_PATH = 200
"""Characters of a path that a line shows, as they were sent: encoded, so no line is forged."""

logger = logging.getLogger("router")


def configure(directives: str) -> None:
    """Log to stderr from now on; `directives` is LOG_LEVEL's value."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level(directives))


def level(directives: str) -> int:
    """The level that a filter gives the router; INFO where it gives none."""
    named = dict(_part(part) for part in directives.lower().split(","))
    words = [*map(named.get, OWN), named.get(""), "info"]
    return next(LEVELS[word] for word in words if word in LEVELS)


@web.middleware
async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log how the request ended, streams included."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    response = await handler(request)
    quiet = response.status < 500  # a line for each would fill a pipe that nobody reads
    logger.log(
        logging.DEBUG if quiet else logging.INFO,
        "request %s: %s %s %d in %.3f s",
        *(request[REQUEST_ID], request.method, request.rel_url.raw_path[:LONGEST_PATH]),
        *(response.status, loop.time() - started),
    )
    return response


def _part(text: str) -> tuple[str, str]:
    target, equals, word = text.strip().rpartition("=")
    return (target.strip(), word.strip()) if equals else ("", word)
