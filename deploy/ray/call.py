"""What travels between the front and the replicas: a whole request, the head of a response.

Knows HTTP only as values. Hop-by-hop headers are dropped, as RFC 9110 has it for a gateway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PREFIX_BYTES = 512
"""Bytes of a body by which two prompts are taken to share their beginning."""
HOP_BY_HOP = frozenset(
    ("connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade")
)
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    front: str
    """Id of the front that sends it."""
    method: str
    path: str
    """With the query."""
    headers: Headers
    body: bytes

    @property
    def prefix(self) -> bytes:
        """The beginning of the body; equal for prompts of one template or conversation."""
        return self.body[:PREFIX_BYTES] if len(self.body) > PREFIX_BYTES else b""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of a response; its body follows in chunks."""

    status: int
    headers: Headers


def end_to_end(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers that a gateway passes on."""
    return tuple((name, value) for name, value in headers if name.lower() not in HOP_BY_HOP)
