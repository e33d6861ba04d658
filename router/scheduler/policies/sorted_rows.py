"""Live rows in the order of their keys, kept as they change: log n comparisons a change.

Keys are compared only among themselves, and no two are equal.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from router.scheduler.row import Row

SortKey = tuple[Any, ...]


class SortedRows:
    """Rows by key, least first."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        """Read only, and only until the next change."""
        self._keys: list[SortKey] = []
        self._key_by_id: dict[int, SortKey] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, row: Row) -> SortKey:
        """The key of a row that stands here. Raises KeyError for others."""
        return self._key_by_id[row.job.id]

    def put(self, row: Row, key: SortKey) -> None:
        """Let `row` stand at `key`, wherever it stood."""
        old, keys = self._key_by_id.get(row.job.id), self._keys
        if old is not None:
            place = bisect_left(keys, old)
            after = place + 1
            if (not place or keys[place - 1] < key) and (after == len(keys) or key < keys[after]):
                keys[place] = self._key_by_id[row.job.id] = key
                return
            del keys[place], self.rows[place]
        place = bisect_left(keys, key)
        keys.insert(place, key)
        self.rows.insert(place, row)
        self._key_by_id[row.job.id] = key

    def remove(self, row: Row) -> None:
        """Forget a row. Raises KeyError for a stranger."""
        place = bisect_left(self._keys, self._key_by_id.pop(row.job.id))
        del self._keys[place], self.rows[place]
