"""Prompt lookup: what followed the last tokens when they occurred before is proposed again.

The longest suffix of prompt and output that occurred earlier, at its latest occurrence, gives the
continuation. The copy may run into its own proposal, so a loop is continued. It needs no forward
and four bytes of memory per token. (Saxena 2023, "Prompt Lookup Decoding"; TGI's flag selects the
same method.)
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.rounds.drafter import Drafter, DraftRequest

MIN_MATCH_TOKENS = 2
"""Minimum length of a match; a single token predicts too little."""
MAX_MATCH_TOKENS = 16
"""Maximum number of tokens that are compared."""
_BYTES_PER_TOKEN = array("i").itemsize


class NgramDrafter(Drafter):
    """Drafts by copying from the row itself."""

    name = "ngram"
    may_abstain = True

    def __init__(self) -> None:
        self._packed: defaultdict[int, bytearray] = defaultdict(bytearray)
        """Tokens as int32 by row id, which can be searched at memory speed."""

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Fill the requests whose rows contain a match."""
        for request in requests:
            packed = self._packed_tokens(request.row)
            request.drafts = continuation(request.row.tokens, packed, request.count)

    def remove(self, ids: Iterable[int]) -> None:
        """See `Drafter`."""
        for id in ids:
            self._packed.pop(id, None)

    def clear(self) -> None:
        """See `Drafter`."""
        self._packed.clear()

    def _packed_tokens(self, row: CachedRow) -> bytearray:
        packed = self._packed[row.id]
        packed += array("i", row.tokens[len(packed) // _BYTES_PER_TOKEN :]).tobytes()
        return packed


def continuation(tokens: Sequence[int], packed: bytearray, count: int) -> list[int]:
    """The `count` tokens expected after `tokens`, or none; `packed` holds `tokens` as int32."""
    start = _match_end(packed)
    if start is None:
        return []
    period = len(tokens) - start
    return [tokens[start + index % period] for index in range(count)]


def _match_end(packed: bytearray) -> int | None:
    """Index after the latest earlier occurrence of the longest suffix.

    None if the longest match is shorter than `MIN_MATCH_TOKENS`. An occurrence of a longer suffix
    ends where one of every shorter suffix ends, so the search only moves to the left.
    """
    match_end, limit = None, len(packed) - _BYTES_PER_TOKEN
    for length in range(1, MAX_MATCH_TOKENS + 1):
        offset = _rfind_aligned(packed, packed[-length * _BYTES_PER_TOKEN :], limit)
        if offset < 0:
            break
        limit = offset + length * _BYTES_PER_TOKEN
        match_end = limit // _BYTES_PER_TOKEN if length >= MIN_MATCH_TOKENS else None
    return match_end


def _rfind_aligned(packed: bytearray, suffix: bytearray, end: int) -> int:
    """Last offset of `suffix` that ends by `end` and starts at a token; -1 if there is none."""
    offset = packed.rfind(suffix, 0, max(0, end))
    while offset > 0 and offset % _BYTES_PER_TOKEN:
        offset = packed.rfind(suffix, 0, offset + len(suffix) - 1)
    return offset
