"""What is kept with an HTTP request, for the handlers and for the middlewares around them."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from router.http.route_group import ErrorFormat
from router.requests.record import LiveRequest

REQUEST_ID = web.RequestKey("request_id", str)
CALLER = web.RequestKey("caller", str)
"""Equal for requests with the same API key; empty on an open server."""
CACHE_SCOPE = web.RequestKey("cache_scope", str)
"""Requests share cached prefixes only with those of the same scope."""
RECORDS = web.RequestKey("records", list[LiveRequest])
"""The live requests that the HTTP request has started."""
RECEIVED_PATH = web.RequestKey("received_path", str)
"""The path as the client sent it, before it was normalized."""
PATH_PARAMETERS: web.RequestKey[Mapping[str, str]] = web.RequestKey("path_parameters")
"""Of the normalized path, which `match_info` does not know."""
FAULT = web.RequestKey("fault", str)
"""The unexpected exception that ended the request, for its line in the log."""
ERROR_FORMAT: web.RequestKey[ErrorFormat] = web.RequestKey("error_format")
"""The form of the route's errors; a handler that delegates to another route may change it."""
