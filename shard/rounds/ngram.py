"""Prompt lookup: what followed the last tokens when they occurred before will follow again.

The longest suffix of prompt and output that occurs earlier, and of that the latest occurrence,
says what comes next. The copy may run into what it has itself proposed, so a loop is continued.
It costs no forward and no memory beyond four bytes a token. (Saxena 2023, "Prompt Lookup
Decoding"; the flag's meaning is TGI's.)
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.rounds.drafters import DraftRequest

MIN_MATCH_TOKENS = 2
"""Tokens that must agree; the last one alone says next to nothing."""
MAX_MATCH_TOKENS = 16
"""Tokens that are compared at most."""
_BYTES_PER_TOKEN = array("i").itemsize


class NgramDrafter:
    """Drafts by copying from the row itself."""

    name = "ngram"
    caches = ()

    def max_drafts(self, row: CachedRow) -> int:
        """As many as there are tokens to copy, and that is without end."""
        return row.remaining

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Fill the asks whose rows repeat themselves."""
        for ask in requests:
            ask.drafts = continuation(ask.row.tokens, _token_bytes(ask.row), ask.count)

    def rollback(self, request: DraftRequest, token_count: int, accepted: int) -> None:
        """There is no cache to roll back."""


def continuation(tokens: Sequence[int], packed: bytearray, count: int) -> list[int]:
    """`count` tokens after `tokens`, or none; `packed` holds them as int32."""
    start = _match_end(packed)
    if start is None:
        return []
    period = len(tokens) - start
    return [tokens[start + index % period] for index in range(count)]


def _match_end(packed: bytearray) -> int | None:
    """Index after the latest earlier occurrence of the longest suffix, None below
    `MIN_MATCH_TOKENS`.

    An occurrence of a longer suffix ends where one of every shorter suffix ends, so the search
    only ever moves to the left.
    """
    found, end = None, len(packed) - _BYTES_PER_TOKEN
    for length in range(1, MAX_MATCH_TOKENS + 1):
        at = _find(packed, packed[-length * _BYTES_PER_TOKEN :], end)
        if at < 0:
            break
        end = at + length * _BYTES_PER_TOKEN
        found = end // _BYTES_PER_TOKEN if length >= MIN_MATCH_TOKENS else None
    return found


def _find(packed: bytearray, wanted: bytearray, end: int) -> int:
    """Last offset of `wanted` that ends by `end` and begins at a token; -1 without one."""
    at = packed.rfind(wanted, 0, max(0, end))
    while at > 0 and at % _BYTES_PER_TOKEN:
        at = packed.rfind(wanted, 0, at + len(wanted) - 1)
    return at


def _token_bytes(row: CachedRow) -> bytearray:
    """The row's tokens as bytes, which can be searched at the speed of memory."""
    row.token_bytes += array("i", row.tokens[len(row.token_bytes) // _BYTES_PER_TOKEN :]).tobytes()
    return row.token_bytes
