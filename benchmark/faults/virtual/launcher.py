"""Starts all ranks again when they have failed, as `shard.launch.rank_group` does with processes.

Rule: decides when which generation of ranks runs; the shipped `restart_policy` decides the delay.
Why ranks fail is drawn elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from benchmark.faults.virtual.rank import MAX_LOAD_SECONDS, RankOwner, VirtualRank
from shard.launch.restart_policy import RestartHistory, load_timeout

StartRanks = Callable[[int], Sequence[VirtualRank]]
"""Creates the ranks of a generation, which do not run yet."""


class VirtualLauncher:
    """The ranks that run, and the numbers of the generations that were ready."""

    def __init__(self, create: StartRanks, on_violation: Callable[[str], None]) -> None:
        self.started: asyncio.Queue[int] = asyncio.Queue()
        """What the router reads."""
        self.ranks: Sequence[VirtualRank] = ()
        self.failures = 0
        self._create = create
        self._history = RestartHistory()
        self._number = 0
        self._loading: set[VirtualRank] = set()
        self._failed = False
        self._changed = asyncio.Event()
        self._owner = RankOwner(self._on_ready, self._on_exit, on_violation)

    async def start(self) -> None:
        """Start the next generation, and wait until it is ready or has failed."""
        self._number += 1
        self.ranks, self._failed = self._create(self._number), False
        self._loading = set(self.ranks)
        for rank in self.ranks:
            rank.start(self._owner)
        while self._loading and not self._failed:
            await self._wait_changed()

    async def keep_running(self) -> None:
        """Start the ranks again whenever they fail. Returns when they have failed too often."""
        while True:
            while not self._failed:
                await self._wait_changed()
            self.failures += 1
            delay = self._history.next_delay(asyncio.get_running_loop().time())
            for rank in self.ranks:
                rank.kill()
            if delay is None:
                return
            await asyncio.sleep(delay)
            with suppress(TimeoutError):
                async with asyncio.timeout(load_timeout(MAX_LOAD_SECONDS)):
                    await self.start()
            self._failed |= bool(self._loading)
            if not self._failed:
                self.started.put_nowait(self._number)

    def report(self, generation: int, reason: str) -> None:
        """The router does not use the ranks of `generation` any more."""
        if generation == self._number:
            self._fail()

    def _on_ready(self, rank: VirtualRank) -> None:
        self._loading.discard(rank)
        self._changed.set()

    def _on_exit(self, rank: VirtualRank) -> None:
        if rank in self.ranks:
            self._fail()

    def _fail(self) -> None:
        self._failed = True
        self._changed.set()

    async def _wait_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()
