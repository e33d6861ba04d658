"""Live rows sorted by keys that change: log n comparisons per change.

Keys must be comparable with each other, and no two may be equal. Knows nothing of what they mean.
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
        """Read only, and only valid until the next change."""
        self._keys: list[SortKey] = []
        self._key_by_id: dict[int, SortKey] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, row: Row) -> SortKey:
        """Return the key of a row. Raises KeyError if it is unknown."""
        return self._key_by_id[row.job.id]

    def put(self, row: Row, key: SortKey) -> None:
        """Insert a row with this key, or move it there."""
        old, keys = self._key_by_id.get(row.job.id), self._keys
        if old is not None:
            index = bisect_left(keys, old)
            after = index + 1
            if (not index or keys[index - 1] < key) and (after == len(keys) or key < keys[after]):
                keys[index] = self._key_by_id[row.job.id] = key
                return
            del keys[index], self.rows[index]
        index = bisect_left(keys, key)
        keys.insert(index, key)
        self.rows.insert(index, row)
        self._key_by_id[row.job.id] = key

    def remove(self, row: Row) -> None:
        """Remove a row. Raises KeyError if it is unknown."""
        index = bisect_left(self._keys, self._key_by_id.pop(row.job.id))
        del self._keys[index], self.rows[index]
