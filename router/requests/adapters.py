"""The LoRA adapters that are served: their names, numbers and users, and which goes out first.

Pure: what a rank holds is told to it by `router.dispatch.adapter_loads`. A number is given once, so
that equal numbers mean equal weights, and so equal keys and values. An adapter that is removed
takes no further request, and ranks hold it until the last of its requests has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from router.errors import ValidationError


@dataclass(slots=True)
class ServedAdapter:
    """An adapter under the name by which requests choose it."""

    number: int
    """From 1 on; 0 is the model alone."""
    name: str
    path: str
    """Its folder. No client sees it."""
    size: int = 0
    """Bytes that it takes on a rank; 0 if it is not counted."""
    pinned: bool = True
    """Whether it stays until it is unloaded by name."""
    users: int = field(default=0, init=False)
    """Live requests."""


class AdapterRegistry:
    """The adapters by name. Those of the command line are pinned and have the first numbers."""

    def __init__(self, names: Sequence[str] = (), paths: Sequence[str] = ()) -> None:
        served = zip(names, paths, strict=True)
        self._by_name = {
            name: ServedAdapter(number, name, path) for number, (name, path) in enumerate(served, 1)
        }
        """The one that was used least recently first."""
        self._by_number = {each.number: each for each in self._by_name.values()}
        """Those too that are removed but have live requests."""
        self._last_number = len(self._by_name)
        self.first_count = len(self._by_name)
        """Number of adapters with which every start of the ranks begins."""

    @property
    def names(self) -> list[str]:
        """The names that requests may choose, in the order of their numbers."""
        return [each.name for each in self if self._is_served(each)]

    @property
    def size(self) -> int:
        """Bytes of all that are not pinned."""
        return sum(each.size for each in self if not each.pinned)

    def __iter__(self) -> Iterator[ServedAdapter]:
        """All that ranks must hold."""
        return iter(sorted(self._by_number.values(), key=lambda each: each.number))

    def find(self, name: str) -> ServedAdapter | None:
        """The adapter that requests choose by `name`."""
        return self._by_name.get(name)

    def new_number(self) -> int:
        """A number that no adapter had before."""
        self._last_number += 1
        return self._last_number

    def add(self, adapter: ServedAdapter) -> None:
        """Serve `adapter`, whose name is free."""
        self._by_name[adapter.name] = self._by_number[adapter.number] = adapter

    def remove(self, name: str) -> list[ServedAdapter]:
        """Take no further request for `name`; return what ranks need no longer hold."""
        adapter = self._by_name.pop(name)
        return self._forget_unused(adapter)

    def acquire(self, number: int) -> None:
        """A request that uses `number` is live. Raises ValidationError if that was removed."""
        adapter = self._by_number.get(number)
        if adapter is None or not self._is_served(adapter):
            raise ValidationError("the adapter has just been unloaded")
        adapter.users += 1
        self._by_name[adapter.name] = self._by_name.pop(adapter.name)

    def release(self, number: int) -> list[ServedAdapter]:
        """A request that used `number` has ended; return what ranks need no longer hold."""
        adapter = self._by_number[number]
        adapter.users -= 1
        return [] if self._is_served(adapter) else self._forget_unused(adapter)

    def least_recently_used(self) -> ServedAdapter | None:
        """The first that may go out: it is not pinned and has no live request."""
        return next(
            (each for each in self._by_name.values() if not each.pinned and not each.users), None
        )

    def _is_served(self, adapter: ServedAdapter) -> bool:
        """Whether further requests may choose `adapter`."""
        return self._by_name.get(adapter.name) is adapter

    def _forget_unused(self, adapter: ServedAdapter) -> list[ServedAdapter]:
        if adapter.users:
            return []
        del self._by_number[adapter.number]
        return [adapter]


NO_ADAPTERS = AdapterRegistry()
"""Of a server without adapters; nothing is ever added to it."""
