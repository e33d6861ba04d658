"""Hashes of the pages of one request: a chain over its tokens, page by page. Pure.

Each hash covers every token up to its page's end, so equal hashes mean equal keys and values. They
are 128 bits of BLAKE2b: a collision would serve one caller what another wrote. Requests with
different salts share nothing, so neither can learn from its time to first token what the other
has sent. Nor do those with different adapters, whose keys and values differ.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from hashlib import blake2b

_DIGEST_BYTES = 16


class PageHasher:
    """The chain of one request; tokens are added as they become known."""

    def __init__(self, page_size: int, salt: str = "", adapter: int = 0) -> None:
        """`adapter`: the number of the adapter that computes; 0 for the model alone."""
        self._page_size = page_size
        self._digest = _hash_salt(salt, adapter)
        self._partial_page: list[int] = []
        self.hashes: tuple[int, ...] = ()
        """Of all full pages so far."""

    def copy(self) -> PageHasher:
        """A hasher that continues the same chain by itself."""
        return copy(self)

    def add(self, tokens: Iterable[int]) -> tuple[int, ...]:
        """Append `tokens`; return the hashes of the pages that they fill."""
        pending = [*self._partial_page, *tokens]
        full = len(pending) // self._page_size * self._page_size
        filled = array("i", pending[:full])
        self._partial_page = pending[full:]
        added = tuple(
            self._hash_page(filled[start : start + self._page_size].tobytes())
            for start in range(0, full, self._page_size)
        )
        self.hashes += added
        return added

    def _hash_page(self, page: bytes) -> int:
        self._digest = blake2b(self._digest + page, digest_size=_DIGEST_BYTES).digest()
        return int.from_bytes(self._digest, "little")


@dataclass(frozen=True, slots=True)
class PromptPages:
    """The hashes of a prompt's full pages; by default none, so that nothing is reused."""

    hashes: tuple[int, ...] = ()
    hasher: PageHasher | None = None
    """Continues the chain with the generated tokens."""

    def copy(self) -> PromptPages:
        """The same for another sequence with this prompt."""
        return PromptPages(self.hashes, self.hasher and self.hasher.copy())


def scope_of(salt: str) -> str:
    """The name of the scope of `salt`, for shards, which need not know it."""
    return _hash_salt(salt).hex()


def _hash_salt(salt: str, adapter: int = 0) -> bytes:
    return blake2b(
        salt.encode(),
        digest_size=_DIGEST_BYTES,
        person=b"salt",
        salt=adapter.to_bytes(8, "little"),
    ).digest()


def hash_prompt(prompt: Sequence[int], page_size: int, salt: str, adapter: int = 0) -> PromptPages:
    """The pages of `prompt`. Takes time proportional to its length: offload long ones."""
    hasher = PageHasher(page_size, salt, adapter)
    return PromptPages(hasher.add(prompt), hasher)
