"""Access control: the server's API keys, and pages of other origins (CORS).

Every path requires a key except those named here, so that a new route is closed by default. Keys
are compared in constant time, all of them each time, and appear in no response and no log. Without
a key the header is not read at all.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from router.http.http_errors import Unauthorized

HEALTH_PATHS = frozenset(("/", "/health", "/ping", "/health/live", "/health/ready"))
"""Open to GET and HEAD, with or without a key."""
READ_METHODS = ("GET", "HEAD")
ALLOWED_METHODS = "GET, POST, DELETE, OPTIONS"
ALLOWED_HEADERS = "content-type, authorization, x-request-id, traceparent"
"""The request headers that a page may send, where it does not ask for others."""
_HEADER_NAMES = re.compile(
    r"[ \t]*[\w!#$%&'*+.^`|~-]+[ \t]*(,[ \t]*[\w!#$%&'*+.^`|~-]+[ \t]*)*", re.A
)
"""A list of names, as in RFC 9110, section 5.6."""
EXPOSED_HEADERS = (
    "x-request-id, retry-after, x-compute-type, x-compute-time, x-compute-characters,"
    " x-total-time, x-validation-time, x-queue-time, x-inference-time, x-time-per-token,"
    " x-prompt-tokens, x-generated-tokens"
)


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The access rules of one server."""

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Each of them opens the server; without any, it is open."""
    prefix_cache_per_key: bool = False
    """Whether requests share cached prefixes only with those of the same key."""
    protect_metrics: bool = False
    open_paths: frozenset[str] = frozenset()
    """Further paths that GET and HEAD may read without a key: files that hold nothing secret."""
    allowed_origins: tuple[str, ...] = ()
    """Any origin if empty or if it contains `*`."""
    max_connections: int = 1024
    """Maximum number of simultaneous connections."""

    def authorize(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        """Return the caller: a digest of its key, empty where none is required.

        Raises Unauthorized if a key is required and is missing or wrong.
        """
        if not self.api_keys or self._is_public(method, path):
            return ""
        for given in _given_keys(headers):
            if any([hmac.compare_digest(given, _bytes(each)) for each in self.api_keys]):
                return blake2b(given, digest_size=16).hexdigest()
        raise Unauthorized

    def cache_scope(self, caller: str) -> str:
        """The scope in which the requests of `caller` share cached prefixes."""
        return caller if self.prefix_cache_per_key else ""

    def cors_headers(self, request: Mapping[str, str], *, preflight: bool) -> dict[str, str]:
        """The CORS headers for the headers of a `request`; none if it has no origin."""
        origin = request.get("Origin")
        if origin is None:
            return {}
        any_origin = not self.allowed_origins or "*" in self.allowed_origins
        if not any_origin and origin not in self.allowed_origins:
            return {"Vary": "Origin"}
        allowed = {"Access-Control-Allow-Origin": "*" if any_origin else origin}
        more = (
            _preflight_headers(request.get("Access-Control-Request-Headers", ""))
            if preflight
            else {"Access-Control-Expose-Headers": EXPOSED_HEADERS}
        )
        return allowed | more | ({} if any_origin else {"Vary": "Origin"})

    def _is_public(self, method: str, path: str) -> bool:
        metrics = path == "/metrics" and not self.protect_metrics
        is_open = metrics or path in HEALTH_PATHS or path in self.open_paths
        return method in READ_METHODS and is_open


def _given_keys(headers: Mapping[str, str]) -> Iterator[bytes]:
    """The keys of a request: a bearer token (RFC 6750), and Anthropic's header."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield _bytes(key.strip())
    if (header := headers.get("x-api-key")) is not None:
        yield _bytes(header.strip())


def _preflight_headers(requested: str) -> dict[str, str]:
    """What a page may send: the header names that it asks for, since clients add their own.

    A name allows nothing by itself, as routes read only the headers that they know.
    """
    headers = requested if _HEADER_NAMES.fullmatch(requested) else ALLOWED_HEADERS
    return {
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": headers,
    }


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
