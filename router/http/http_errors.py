"""The errors of HTTP itself: authorization, path, method, headers and the reading of a body.

They are raised before a body is parsed, so `tgi_request_failure` does not count them. What is wrong
with the content of a request is in `router.errors`.
"""

from __future__ import annotations

from types import MappingProxyType

from router.errors import RouterError

_CLOSE = MappingProxyType({"Connection": "close"})


class Unauthorized(RouterError):
    """Missing or invalid API key."""

    status, error_type, openai_type = 401, "unauthorized", "authentication_error"
    prefix = "Unauthorized"
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class BadRequest(RouterError):
    """Malformed HTTP."""

    status, error_type = 400, "bad_request"
    prefix = "Bad request"


class NotFound(RouterError):
    """No such path."""

    status, error_type = 404, "not_found"
    prefix = "Not Found"


class MethodNotAllowed(RouterError):
    """The path exists, with other methods."""

    status, error_type = 405, "method_not_allowed"
    prefix = "Method Not Allowed"


class RequestTimeout(RouterError):
    """The body came too slowly."""

    status, error_type = 408, "request_timeout"
    prefix = "Timed out while reading the request body"
    headers = MappingProxyType({"x-should-retry": "false", "Connection": "close"})


class PayloadTooLarge(RouterError):
    """The body exceeds the payload limit; the connection closes, since the rest is not read."""

    status, error_type = 413, "payload_too_large"
    prefix = "Failed to buffer the request body: length limit exceeded"
    headers = _CLOSE


class UriTooLong(RouterError):
    """The path and query are longer than the server accepts."""

    status, error_type = 414, "uri_too_long"
    prefix = "The request's URI is too long"
    headers = _CLOSE


class HeadersTooLarge(RouterError):
    """A header is longer, or there are more of them, than the server accepts."""

    status, error_type = 431, "headers_too_large"
    prefix = "The request's headers are too large"
    headers = _CLOSE


class ExpectationFailed(RouterError):
    """The `Expect` header has a value other than `100-continue`."""

    status, error_type = 417, "expectation_failed"
    prefix = "`Expect` supports only `100-continue`"
    headers = _CLOSE


class UnsupportedContentEncoding(RouterError):
    """The body is compressed in a way that is not supported; RFC 9110, section 12.5.3."""

    status, error_type = 415, "unsupported_content_encoding"
    prefix = "`Content-Encoding` must be gzip, deflate or identity"
    headers = MappingProxyType({"Accept-Encoding": "gzip, deflate, identity"})


class UnsupportedMediaType(RouterError):
    """The `Content-Type` is not JSON."""

    status, error_type = 415, "unsupported_media_type"
    prefix = "Expected request with `Content-Type: application/json`"
