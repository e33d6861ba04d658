"""Keys and values of swapped-out rows: a pool of pages in host memory.

The router allocates its slots, as it allocates pages, so this file only copies. On CUDA the memory
is pinned and the copies run on a separate stream: pages are gathered before the Step's work may
overwrite them, and copies in both directions overlap with that work. A Step that runs a returning
row, or releases it, waits for its pages on the device, not on the host; the router makes sure that
this is a later Step than the one that swaps them in. On CPU the same copies are synchronous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from shard import progress
from shard.attention.kv_cache import KvCache
from shard.wire.protocol import PageCopy, Step


class HostPool:
    """`slots` pages for all layers of `caches`, which share their page ids and their device."""

    def __init__(self, caches: Sequence[KvCache], slots: int) -> None:
        """Reserve the memory; pinning it for a GPU is slow."""
        self._pools = [pool for cache in caches for pool in cache.pools_by_page]
        self._device = self._pools[0].device
        cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if cuda else None
        self._host_pools = [
            torch.empty(slots, *pool.shape[1:], dtype=pool.dtype, pin_memory=cuda)
            for pool in self._pools
        ]
        self._arrivals: dict[int, torch.cuda.Event] = {}
        """The event after which a returning row's pages have arrived, by row id."""

    def clear(self) -> None:
        """Forget all rows; later work waits for copies in flight."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._arrivals.clear()

    def apply(self, step: Step) -> None:
        """Make the copies of `step`, in order: out, within the device, in."""
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
        """Note which rows receive the pages that `step` swaps in."""
        if self._stream is not None:
            targets, arrival = set(step.swap_in.targets), self._stream.record_event()
            rows = (grow.id for grow in step.grow if not targets.isdisjoint(grow.pages))
            self._arrivals.update(dict.fromkeys(rows, arrival))

    def _wait_for(self, rows: Iterable[int]) -> None:
        """Make later work wait for the pages of `rows`."""
        for id in self._arrivals.keys() & set(rows) if self._arrivals else ():
            torch.cuda.current_stream(self._device).wait_event(self._arrivals.pop(id))

    def _copy(self, move: PageCopy) -> None:
        sources, targets = self._page_index(move.sources), self._page_index(move.targets)
        for pool in self._pools:
            pool.index_copy_(0, targets, pool.index_select(0, sources))
            progress.advance()

    def _swap_out(self, move: PageCopy) -> None:
        sources = self._page_index(move.sources)
        staged = [pool.index_select(0, sources) for pool in self._pools]
        with self._on_copy_stream(staged):
            for at, slots in _contiguous_runs(move.targets):
                for host, rows in zip(self._host_pools, staged, strict=True):
                    part = rows[at : at + len(slots)]
                    host[slots.start : slots.stop].copy_(part, non_blocking=True)
                progress.advance()

    def _swap_in(self, move: PageCopy) -> None:
        targets, count = self._page_index(move.targets), len(move.targets)
        staged = [pool.new_empty(count, *pool.shape[1:]) for pool in self._pools]
        with self._on_copy_stream([*staged, targets]):
            for at, slots in _contiguous_runs(move.sources):
                for host, rows in zip(self._host_pools, staged, strict=True):
                    part = host[slots.start : slots.stop]
                    rows[at : at + len(slots)].copy_(part, non_blocking=True)
                progress.advance()
            for pool, rows in zip(self._pools, staged, strict=True):
                pool.index_copy_(0, targets, rows)

    @contextmanager
    def _on_copy_stream(self, used: Sequence[Tensor]) -> Iterator[None]:
        """Run copies of the block, which use the tensors `used`, concurrently with later work."""
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
    """Maximal runs of consecutive `slots`, each with the index of its first."""
    runs: list[tuple[int, range]] = []
    for at, slot in enumerate(slots):
        if runs and runs[-1][1].stop == slot:
            runs[-1] = runs[-1][0], range(runs[-1][1].start, slot + 1)
        else:
            runs.append((at, range(slot, slot + 1)))
    return runs
