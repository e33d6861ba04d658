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

_DIGEST_BYTES = 16


class PageHasher:
    """The chain of one request; tokens are added as they become known."""

    def __init__(self, page_size: int, salt: str = "") -> None:
        self._page_size = page_size
        self._digest = blake2b(salt.encode(), digest_size=_DIGEST_BYTES, person=b"salt").digest()
        self._partial_page: list[int] = []

    def add(self, tokens: Iterable[int]) -> tuple[int, ...]:
        """Names of the pages that `tokens` fill."""
        self._partial_page.extend(tokens)
        whole = len(self._partial_page) // self._page_size * self._page_size
        filled, self._partial_page = (
            array("i", self._partial_page[:whole]),
            self._partial_page[whole:],
        )
        return tuple(
            self._hash_page(filled[start : start + self._page_size].tobytes())
            for start in range(0, whole, self._page_size)
        )

    def _hash_page(self, page: bytes) -> int:
        self._digest = blake2b(self._digest + page, digest_size=_DIGEST_BYTES).digest()
        return int.from_bytes(self._digest, "little")
