"""Rows in the order of a rank that also changes while they wait.

The rank of a row that was served is computed at once. When something that all ranks depend on has
changed, the ranks of waiting rows are recomputed a few at a time, in turn, so that no Step pays for
thousands of them. Rows of one kind that wait for their first service share the estimate of the
oldest, and are moved together when it is renewed: so none overtakes an older one. Knows no policy:
rank and kind are functions that are passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from router.scheduler.policies.multilevel_queue import MultilevelQueue, RankInLevel
from router.scheduler.policies.waiting_twins import KindOf, WaitingTwins
from router.scheduler.row import Row

RankLike = Callable[[Row, Row], RankInLevel]
"""Returns the rank of a row, least first, with what is estimated for another row of its kind, or
for the row itself."""
RERANKED_ROWS = 32
"""Maximum number of rows whose rank is recomputed before a Step."""


class IncrementalOrder:
    """Live rows by rank, aged rows first."""

    def __init__(self, queue: MultilevelQueue, rank: RankLike, kind: KindOf) -> None:
        """`queue`: one level, for order and ageing. `rank`: called at every change."""
        self._queue, self._rank = queue, rank
        self._twins = WaitingTwins(kind)
        self._live: dict[int, Row] = {}
        self._ring: deque[Row] = deque()
        """All live rows, and rows that ended since their last turn."""
        self._stale_count = 0
        """Rows at the head of the ring whose rank may be out of date."""

    def add(self, row: Row, now: float) -> None:
        """Add a row."""
        self._live[row.job.id] = row
        self._ring.append(row)
        twins = self._twins.of(row)
        if twins:
            oldest, newest = next(iter(twins.values())), next(reversed(twins.values()))
            rank = max(self._queue.rank(newest), self._rank(row, oldest))
        else:
            rank = self._rank(row, row)
        self._twins.add(row)
        self._queue.add(row, 1, rank, now)

    def observe(self, row: Row) -> None:
        """A Step served `row`: its rank is recomputed."""
        self._twins.discard(row)
        self.update(row)

    def update(self, row: Row) -> None:
        """Recompute the rank of a row that was started."""
        self._queue.move(row, 1, self._rank(row, row))

    def remove(self, row: Row) -> None:
        """Remove a row."""
        del self._live[row.job.id]
        self._twins.discard(row)
        self._queue.remove(row)

    def is_aged(self, row: Row) -> bool:
        """Return whether the row waited so long that it goes before all ranks."""
        return not self._queue.level(row)

    def mark_stale(self) -> None:
        """All ranks may have changed."""
        self._stale_count = len(self._ring)

    def rows(self, now: float) -> Sequence[Row]:
        """Return every live row, first to be served first."""
        for _ in range(min(RERANKED_ROWS, self._stale_count)):
            self._stale_count -= 1
            row = self._ring.popleft()
            if self._live.get(row.job.id) is row:
                self._ring.append(row)
                self._refresh(row)
        return self._queue.order(now)

    def _refresh(self, row: Row) -> None:
        """Recompute a rank; a row that waits for its first service has it from its oldest twin."""
        twins = self._twins.of(row)
        if row.job.id not in twins:
            self.update(row)
        elif next(iter(twins.values())) is row:
            rank = self._rank(row, row)
            if rank != self._queue.rank(row):
                for twin in twins.values():
                    rank = max(rank, self._rank(twin, row))
                    self._queue.move(twin, 1, rank)
