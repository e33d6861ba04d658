"""A cache bounded by the size of its values, from which the least recently used ones are dropped.

It knows neither what its values are nor how large they are: callers say so. Not thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Values of at most `max_bytes` altogether; one that is larger by itself is not kept."""

    def __init__(self, max_bytes: int, size_of: Callable[[Key, Value], int]) -> None:
        """`size_of` returns the bytes that an entry takes, always the same for the same entry."""
        self._max_bytes, self._size_of = max_bytes, size_of
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self.size = 0
        """Bytes of all values."""

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value of `key`, which is now the most recently used; None if there is none."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Keep `value`, and drop others until there is room for it."""
        self._remove(key)
        size = self._size_of(key, value)
        if size > self._max_bytes:
            return
        while self.size + size > self._max_bytes:
            self._remove(next(iter(self._values)))
        self._values[key] = value
        self.size += size

    def get_or_build(self, key: Key, build: Callable[[], Value]) -> Value:
        """The value of `key`, built and kept if there is none."""
        value = self.get(key)
        if value is None:
            value = build()
            self.put(key, value)
        return value

    def _remove(self, key: Key) -> None:
        if key in self._values:
            self.size -= self._size_of(key, self._values.pop(key))
