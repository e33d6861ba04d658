"""Adapters come and go while the server runs; here: in which order ranks are told.

An adapter is in the registry once every rank has loaded it, and leaves the ranks when no live
request uses it. A group of shards that was started again has the adapters of the command line; it
is told the others before it serves.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from router.errors import AdapterNotFound, AdapterRefused, Unavailable
from router.requests.adapters import AdapterRegistry, ServedAdapter
from router.shards.group import ShardGroup

NO_ROOM = "The adapters in use leave no room for it; see `--max-lora-bytes`"


class AdapterLoads:
    """Loads adapters into the registry from folders below `folder`; None: it loads none."""

    def __init__(
        self, registry: AdapterRegistry, folder: str | None = None, max_bytes: int = 0
    ) -> None:
        """`max_bytes`: of all adapters together that were loaded here, on one rank."""
        self.registry = registry
        self._folder = None if folder is None else Path(folder).resolve()
        self._max_bytes = max_bytes
        self._lock = asyncio.Lock()

    async def load(self, group: ShardGroup, name: str, path: str) -> None:
        """Serve the adapter in folder `path` as `name`.

        Raises AdapterRefused, with the reason, or Unavailable if the shards fail meanwhile.
        """
        folder = self._allowed(path)
        async with self._lock:
            if self.registry.find(name) is not None:
                raise AdapterRefused(f"`{name}` is already loaded; unload it first")
            adapter = ServedAdapter(self.registry.new_number(), name, str(folder), pinned=False)
            adapter.size = await self._load(group, adapter)
            if not self._make_room(group, adapter.size):
                group.unload_adapter(adapter.number)
                raise AdapterRefused(NO_ROOM)
            self.registry.add(adapter)

    def unload(self, group: ShardGroup, name: str) -> None:
        """Take no further request for `name`; its live requests go on. Raises AdapterNotFound."""
        if self.registry.find(name) is None:
            raise AdapterNotFound(name)
        for adapter in self.registry.remove(name):
            group.unload_adapter(adapter.number)

    def acquire(self, number: int) -> None:
        """A request that uses the adapter `number` is live; 0 is no adapter.

        Raises ValidationError if it was removed.
        """
        if number:
            self.registry.acquire(number)

    def release(self, group: ShardGroup, number: int) -> None:
        """A request that used the adapter `number` has ended; 0 is no adapter."""
        for adapter in self.registry.release(number) if number else ():
            group.unload_adapter(adapter.number)

    async def prepare_successor(self, group: ShardGroup) -> list[int]:
        """Tell `group`, which has just been started, what to hold.

        Returns the numbers of adapters that can no longer be loaded, which are removed.
        """
        held = {adapter.number for adapter in self.registry}
        for number in range(1, self.registry.first_count + 1):
            if number not in held:
                group.unload_adapter(number)
        lost = []
        for adapter in [each for each in self.registry if not each.pinned]:
            try:
                await self._load(group, adapter)
            except AdapterRefused:
                lost.append(adapter.number)
                if self.registry.find(adapter.name) is adapter:  # not removed while it is in use
                    self.registry.remove(adapter.name)
            except Unavailable:
                break  # this group has failed too
        return lost

    def _allowed(self, path: str) -> Path:
        if self._folder is None:
            raise AdapterRefused("The server was started without `--lora-folder`")
        folder = (self._folder / path).resolve()
        if self._folder not in folder.parents:
            raise AdapterRefused(f"`{path}` is not below the folder of `--lora-folder`")
        return folder

    async def _load(self, group: ShardGroup, adapter: ServedAdapter) -> int:
        """Let every rank load `adapter`; return its bytes on one rank."""
        answers = await group.load_adapter(adapter.number, adapter.path)
        if group.failure is not None:
            raise Unavailable("Model is unavailable")
        if fault := next((answer.fault for answer in answers if answer.fault), None):
            group.unload_adapter(adapter.number)
            raise AdapterRefused(fault.replace(str(self._folder), "--lora-folder"))
        return max(answer.size for answer in answers)

    def _make_room(self, group: ShardGroup, size: int) -> bool:
        """Remove adapters, those that were used least recently first, until `size` bytes fit."""
        while self.registry.size + size > self._max_bytes:
            oldest = self.registry.least_recently_used()
            if size > self._max_bytes or oldest is None:
                return False
            self.unload(group, oldest.name)
        return True
