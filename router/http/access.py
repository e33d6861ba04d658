"""Who may come in: the key of the server, and the pages of other origins (CORS).

Every path asks for the key but those named here, so that a new route is closed until someone opens
it. The key is compared in constant time and appears in no answer and no log. Without a key the
header is not even read.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from router.errors import Unauthorized

HEALTH_PATHS = frozenset(("/", "/health", "/ping", "/health/live", "/health/ready"))
"""Open to GET and HEAD, whatever is asked elsewhere."""
READ_METHODS = ("GET", "HEAD")
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "content-type, authorization, x-request-id, traceparent",
}
EXPOSED_HEADERS = (
    "x-request-id, retry-after, x-compute-type, x-compute-time, x-compute-characters,"
    " x-total-time, x-validation-time, x-queue-time, x-inference-time, x-time-per-token,"
    " x-prompt-tokens, x-generated-tokens"
)


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The rules of one server."""

    api_key: str | None = field(default=None, repr=False)
    protect_metrics: bool = False
    allowed_origins: tuple[str, ...] = ()
    """Empty, or with `*` among them: any."""
    max_connections: int = 1024
    """Most at once."""

    def authorize(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Raises Unauthorized for a request that needs the key and has another or none."""
        if self.api_key is None or self._is_public(method, path):
            return
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(_bytes(given.strip()), _bytes(self.api_key))
        if scheme.lower() != "bearer" or not same:
            raise Unauthorized

    def cors_headers(self, origin: str | None, *, preflight: bool) -> dict[str, str]:
        """The headers for a page of `origin`; without one, no page asks."""
        if origin is None:
            return {}
        anyone = not self.allowed_origins or "*" in self.allowed_origins
        if not anyone and origin not in self.allowed_origins:
            return {"Vary": "Origin"}
        told = {"Access-Control-Allow-Origin": "*" if anyone else origin}
        more = (
            PREFLIGHT_HEADERS if preflight else {"Access-Control-Expose-Headers": EXPOSED_HEADERS}
        )
        return told | more | ({} if anyone else {"Vary": "Origin"})

    def _is_public(self, method: str, path: str) -> bool:
        metrics = path == "/metrics" and not self.protect_metrics
        return method in READ_METHODS and (metrics or path in HEALTH_PATHS)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
