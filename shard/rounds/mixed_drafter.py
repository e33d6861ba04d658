"""Suffix decoding next to another drafter: per row, whichever the Step prefers and has a draft.

A row for which the Step allows both drafts by suffix decoding where it finds a match, and by the
other drafter where it does not. The Step, not this file, knows which pays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from shard.attention.kv_cache import KvCache
from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.config import SUFFIX_DRAFT_LENGTH
from shard.rounds.device_drafter import DeviceDrafter
from shard.rounds.drafter import Drafter, DraftRequest
from shard.rounds.suffix import SuffixDrafter


class MixedDrafter(Drafter):
    """`drafter` with suffix decoding next to it."""

    name = "auto"
    remembers = True
    suffix_length = SUFFIX_DRAFT_LENGTH

    def __init__(self, drafter: Drafter) -> None:
        self.drafter, self._suffix = drafter, SuffixDrafter()

    @property
    def caches(self) -> Sequence[KvCache]:
        """The other drafter's; suffix decoding has none."""
        return self.drafter.caches

    @property
    def device_drafter(self) -> DeviceDrafter | None:
        """The other drafter's: rows that may use suffix decoding are done on the host."""
        return self.drafter.device_drafter

    def max_drafts(self, row: CachedRow) -> int:
        """See `Drafter`."""
        return self.drafter.max_drafts(row)

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Ask suffix decoding first."""
        for request in requests:
            self._draft_by_suffix(request)
        open_requests = [each for each in requests if not each.drafts and each.count]
        self.drafter.propose(open_requests, prefills)
        for request in open_requests:
            request.drafter = self.drafter.name

    def rollback(self, request: DraftRequest, token_count: int, accepted: int) -> None:
        """Tell the drafter whose drafts they were."""
        if request.drafter == self.drafter.name:
            self.drafter.rollback(request, token_count, accepted)

    def remove(self, ids: Iterable[int]) -> None:
        """See `Drafter`."""
        ids = list(ids)
        self._suffix.remove(ids)
        self.drafter.remove(ids)

    def clear(self) -> None:
        """See `Drafter`."""
        self._suffix.clear()
        self.drafter.clear()

    def _draft_by_suffix(self, request: DraftRequest) -> None:
        if request.suffix:
            found = replace(request, count=request.suffix)
            self._suffix.propose([found], ())
            request.drafts, request.drafter = found.drafts, self._suffix.name
