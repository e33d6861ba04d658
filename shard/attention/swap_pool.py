"""Keys and values of rows that gave up their pages: a pool of pages in the host's memory.

The router owns its slots, as it owns the pages, so this file only copies. On CUDA the memory is
pinned and the copies run on a stream of their own: pages are gathered before the Step's work may
overwrite them, and both ways overlap with that work. What comes back is waited for, on the device
alone, by the Step that runs its row or takes the row's pages away; the router sees to it that this
is a later Step than the one that fetches. On CPU the same copies are made at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from shard.attention.kv_cache import KvCache
from shard.wire.protocol import PageCopy, Step


class HostPool:
    """`slots` pages for all layers of `caches`, which share their page ids and their device."""

    def __init__(self, caches: Sequence[KvCache], slots: int) -> None:
        """Reserve the memory; pinning it takes a while where there is a GPU."""
        self._pools = [pool for cache in caches for pool in cache.pools_by_page]
        self._device = self._pools[0].device
        cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if cuda else None
        self._host_pools = [
            torch.empty(slots, *pool.shape[1:], dtype=pool.dtype, pin_memory=cuda)
            for pool in self._pools
        ]
        self._arrivals: dict[int, torch.cuda.Event] = {}
        """Rows whose pages are on their way back, and what tells that they are there."""

    def clear(self) -> None:
        """Every row is gone; what is on its way arrives before anything else happens."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._arrivals.clear()

    def apply(self, step: Step) -> None:
        """Make the moves of `step`, in its order."""
        with torch.inference_mode():
            self._wait_for(step.release)
            if step.swap_out.sources:
                self._swap_out(step.swap_out)
            if step.copy.sources:
                self._copy(step.copy)
            if step.swap_in.sources:
                self._swap_in(step.swap_in)
                self._note_arrivals(step)
            self._wait_for([run.id for run in step.run])

    def _note_arrivals(self, step: Step) -> None:
        """Note the rows of the pages that `step` fetches; they have just been given to them."""
        if self._stream is not None:
            targets, there = set(step.swap_in.targets), self._stream.record_event()
            rows = (grow.id for grow in step.grow if not targets.isdisjoint(grow.pages))
            self._arrivals.update(dict.fromkeys(rows, there))

    def _wait_for(self, rows: Iterable[int]) -> None:
        """Let the work to come wait for the pages of `rows`."""
        for id in self._arrivals.keys() & set(rows) if self._arrivals else ():
            torch.cuda.current_stream(self._device).wait_event(self._arrivals.pop(id))

    def _copy(self, move: PageCopy) -> None:
        sources, targets = self._page_index(move.sources), self._page_index(move.targets)
        for pool in self._pools:
            pool.index_copy_(0, targets, pool.index_select(0, sources))

    def _swap_out(self, move: PageCopy) -> None:
        sources = self._page_index(move.sources)
        staged = [pool.index_select(0, sources) for pool in self._pools]
        with self._on_copy_stream(staged):
            for at, slots in _contiguous_runs(move.targets):
                for host, rows in zip(self._host_pools, staged, strict=True):
                    part = rows[at : at + len(slots)]
                    host[slots.start : slots.stop].copy_(part, non_blocking=True)

    def _swap_in(self, move: PageCopy) -> None:
        targets, count = self._page_index(move.targets), len(move.targets)
        staged = [pool.new_empty(count, *pool.shape[1:]) for pool in self._pools]
        with self._on_copy_stream([*staged, targets]):
            for at, slots in _contiguous_runs(move.sources):
                for host, rows in zip(self._host_pools, staged, strict=True):
                    part = host[slots.start : slots.stop]
                    rows[at : at + len(slots)].copy_(part, non_blocking=True)
            for pool, rows in zip(self._pools, staged, strict=True):
                pool.index_copy_(0, targets, rows)

    @contextmanager
    def _on_copy_stream(self, used: Sequence[Tensor]) -> Iterator[None]:
        """Inside, copies that need `used` run beside the Step's work, after what came before."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        for tensor in used:
            tensor.record_stream(self._stream)

    def _page_index(self, pages: Sequence[int]) -> Tensor:
        return torch.tensor(pages, device=self._device)


def _contiguous_runs(slots: Sequence[int]) -> list[tuple[int, range]]:
    """Maximal runs of neighbours in `slots`, each with the place of its first."""
    found: list[tuple[int, range]] = []
    for at, slot in enumerate(slots):
        if found and found[-1][1].stop == slot:
            found[-1] = found[-1][0], range(found[-1][1].start, slot + 1)
        else:
            found.append((at, range(slot, slot + 1)))
    return found
