"""Names for the pages of one request: a chain of hashes over its tokens, page by page. Pure.

Each name covers every token up to its page's end, so equal names mean equal keys and values. The
names are 128 bits of BLAKE2b: a collision would serve one caller what another wrote. Requests
under different salts share nothing, so neither can tell from its first token's time what the other
has asked.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

_BYTES = 16


class PageNames:
    """The chain of one request; tokens are added as they become known."""

    def __init__(self, page_size: int, salt: str = "") -> None:
        self._size = page_size
        self._name = blake2b(salt.encode(), digest_size=_BYTES, person=b"salt").digest()
        self._tail: list[int] = []

    def add(self, tokens: Iterable[int]) -> tuple[int, ...]:
        """Names of the pages that `tokens` fill."""
        self._tail.extend(tokens)
        whole = len(self._tail) // self._size * self._size
        filled, self._tail = array("i", self._tail[:whole]), self._tail[whole:]
        return tuple(
            self._next(filled[start : start + self._size].tobytes())
            for start in range(0, whole, self._size)
        )

    def _next(self, page: bytes) -> int:
        self._name = blake2b(self._name + page, digest_size=_BYTES).digest()
        return int.from_bytes(self._name, "little")
