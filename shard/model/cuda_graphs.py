"""CUDA graphs of small forwards: decode, verification, one draft token.

A launch costs the host as much as a small layer costs the device, so forwards of few tokens are
recorded once per bucket, (rows, tokens per row), and replayed. What changes from Step to Step
lives in buffers whose addresses never change; a bucket's unused tokens are written to the trash
page, and its unused rows ask for nothing. When a bucket is recorded is the business of `recorder`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.backends import DeviceLayout, Tables, TritonPaged
from shard.attention.interface import Segment
from shard.attention.kv_cache import KvCache
from shard.batch.packing import Packed
from shard.model.forward import Forward
from shard.model.graph_recorder import Graph, Recorder

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """Forwards of at most `rows` rows with at most `width` tokens each."""

    rows: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens that a recorded forward takes in."""
        return self.rows * self.width


def bucket(rows: int, width: int, most: Bucket) -> Bucket | None:
    """The smallest bucket that holds `rows` of `width` tokens; None if it exceeds `most`."""
    return _around(rows, width) if rows <= most.rows and width <= most.width else None


def largest(rows: int, width: int) -> Bucket:
    """The bucket for a server's bounds, or the largest that there is."""
    return _around(min(rows, ROWS[-1]), min(width, WIDTHS[-1]))


def _around(rows: int, width: int) -> Bucket:
    return Bucket(ROWS[bisect_left(ROWS, rows)], WIDTHS[bisect_left(WIDTHS, width)])


class Inputs:
    """The buffers that recorded forwards read, as large as the largest bucket needs."""

    def __init__(self, most: Bucket, pages: int, device: torch.device) -> None:
        """`pages` is the most that one row owns."""
        self._tokens = torch.zeros(4, most.tokens, dtype=torch.int64, device=device)
        self._rows = torch.zeros(3, most.rows, dtype=torch.int32, device=device)
        self._pages = torch.zeros(most.rows, pages, dtype=torch.int32, device=device)

    def blank(self, bucket: Bucket) -> None:
        """Make every token and row of `bucket` padding."""
        self._tokens[:, : bucket.tokens] = 0
        self._rows[:, : bucket.rows] = 0
        self._pages[: bucket.rows] = 0

    def fill(self, packed: Packed, bucket: Bucket) -> None:
        """Copy `packed`, which lies on the host; the rest of `bucket` becomes padding."""
        tokens = torch.zeros(4, bucket.tokens, dtype=torch.int64)
        sources = packed.ids[0], packed.positions[0], packed.layout.slots, packed.wanted
        for line, source in zip(tokens, sources, strict=True):
            line[: len(source)] = source
        tables = Tables.of(packed.layout.segments)
        rows = torch.zeros(3, bucket.rows, dtype=torch.int32)
        count, pages = tables.pages.shape
        rows[:, :count] = tables.rows
        self._tokens[:, : bucket.tokens].copy_(tokens)
        self._rows[:, : bucket.rows].copy_(rows)
        self._pages[:count, :pages].copy_(tables.pages)

    def view(
        self, bucket: Bucket, cache: KvCache, backend: TritonPaged
    ) -> tuple[Tensor, Tensor, DeviceLayout, Tensor]:
        """The part of the buffers that `bucket` uses, as a `Forward` takes it."""
        tokens, rows = self._tokens[:, : bucket.tokens], self._rows[:, : bucket.rows]
        tables = Tables(self._pages[: bucket.rows], rows, bucket.width)
        layout = DeviceLayout(cache, tokens[2], tables, (), backend)
        return tokens[0:1], tokens[1:2], layout, tokens[3]


class Graphs:
    """Runs packed forwards: replayed where their bucket is recorded, else eagerly."""

    def __init__(
        self,
        forward: Forward,
        eager: Callable[[Packed], Tensor],
        cache: KvCache,
        backend: TritonPaged,
        most: Bucket,
        pages: int,
        new: Callable[[], Graph] | None = None,
    ) -> None:
        """`eager` runs what is not recorded; `new` makes graphs, by default CUDA's of one pool."""
        self._forward, self._eager = forward, eager
        self._cache, self._backend, self._most = cache, backend, most
        self._inputs = Inputs(most, pages, backend.device)
        self._room = torch.empty(0)
        """Where all buckets leave their logits, so that what a recording allocates is free again
        at its end, for the next one to use."""
        self._recorder = Recorder(most, self._work, new)

    def __call__(self, packed: Packed) -> Tensor:
        """Logits of `packed`, which lies on the host; valid until the next call."""
        found = self._bucket(packed.layout.segments)
        if found is None:
            return self._eager(packed)
        graph = self._recorder.find(found)
        if graph is None:
            logits = self._eager(packed)
            if not len(self._room):
                self._room = logits.new_empty(self._most.tokens, logits.shape[1])
            self._recorder.meet(found)
            return logits
        self._inputs.fill(packed, found)
        graph.replay()
        return self._room[: len(packed.wanted)]

    @property
    def recorded(self) -> tuple[Bucket, ...]:
        """The buckets that are replayed, in the order of their recording."""
        return self._recorder.recorded

    def _bucket(self, segments: Sequence[Segment]) -> Bucket | None:
        width = max(part.stop - part.start for part in segments)
        return bucket(len(segments), width, self._most)

    def _work(self, wanted: Bucket) -> Callable[[], None]:
        """The forward of `wanted`, whose inputs are left blank."""
        self._inputs.blank(wanted)
        inputs = self._inputs.view(wanted, self._cache, self._backend)
        room = self._room[: wanted.tokens]

        def work() -> None:
            room.copy_(self._forward(*inputs))

        return work
