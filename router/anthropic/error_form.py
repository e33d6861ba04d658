"""The form of errors on the routes of the Messages API, before the headers and in a stream.

The HTTP status is that of every other route; Anthropic's `type` follows from it. Pure.
"""

from __future__ import annotations

from typing import Any

from router.errors import RouterError

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Anthropic's types by status; 529, its status of `overloaded_error`, is 503 here."""
_SERVER_ERRORS = (424, 499)
"""Statuses below 500 that are not the request's fault."""


def anthropic_error(error: RouterError) -> dict[str, Any]:
    """An error's body, or stream event."""
    return {"type": "error", "error": {"type": error_type(error.status), "message": str(error)}}


def error_type(status: int) -> str:
    """Anthropic's type of an error with this HTTP status."""
    is_fault = status >= 500 or status in _SERVER_ERRORS
    return _TYPES.get(status, "api_error" if is_fault else "invalid_request_error")
