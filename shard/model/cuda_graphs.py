"""CUDA graphs of small forwards: decode, verification, one draft token.

A launch costs the host as much as a small layer costs the device, so forwards of few tokens are
recorded once per bucket, (rows, tokens per row), and replayed. Inputs that change from Step to Step
are in buffers whose addresses never change. Unused tokens of a bucket are written to the trash
page, and its unused rows are empty. When to record a bucket is decided by `graph_recorder`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.backends import TritonPagedAttention
from shard.attention.device_layout import DeviceLayout, PageTables
from shard.attention.kv_cache import KvCache
from shard.attention.sdpa_padded import Segment
from shard.batch.packing import PackedBatch
from shard.model.forward import Forward
from shard.model.graph_recorder import Graph, GraphRecorder

ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
WIDTH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """Forwards of at most `rows` rows with at most `width` tokens each."""

    rows: int
    width: int

    @property
    def tokens(self) -> int:
        """Number of tokens of a recorded forward."""
        return self.rows * self.width


def find_bucket(rows: int, width: int, limit: Bucket) -> Bucket | None:
    """The smallest bucket for `rows` rows of `width` tokens; None if it exceeds `limit`."""
    return _enclosing_bucket(rows, width) if rows <= limit.rows and width <= limit.width else None


def largest_bucket(rows: int, width: int) -> Bucket:
    """The bucket for a server's limits, or the largest one."""
    return _enclosing_bucket(min(rows, ROW_BUCKETS[-1]), min(width, WIDTH_BUCKETS[-1]))


def _enclosing_bucket(rows: int, width: int) -> Bucket:
    return Bucket(
        ROW_BUCKETS[bisect_left(ROW_BUCKETS, rows)],
        WIDTH_BUCKETS[bisect_left(WIDTH_BUCKETS, width)],
    )


class GraphInputs:
    """The buffers that recorded forwards read, as large as the largest bucket needs."""

    def __init__(self, largest: Bucket, pages: int, device: torch.device) -> None:
        """`pages` is the maximum number of pages of one row."""
        self._tokens = torch.zeros(4, largest.tokens, dtype=torch.int64, device=device)
        self._rows = torch.zeros(3, largest.rows, dtype=torch.int32, device=device)
        self._pages = torch.zeros(largest.rows, pages, dtype=torch.int32, device=device)

    def clear(self, bucket: Bucket) -> None:
        """Make every token and row of `bucket` padding."""
        self._tokens[:, : bucket.tokens] = 0
        self._rows[:, : bucket.rows] = 0
        self._pages[: bucket.rows] = 0

    def fill(self, packed: PackedBatch, bucket: Bucket) -> None:
        """Copy `packed`, which is on the host; the rest of `bucket` becomes padding."""
        tokens = torch.zeros(4, bucket.tokens, dtype=torch.int64)
        sources = packed.ids[0], packed.positions[0], packed.layout.slots, packed.logit_indices
        for line, source in zip(tokens, sources, strict=True):
            line[: len(source)] = source
        tables = PageTables.from_segments(packed.layout.segments)
        rows = torch.zeros(3, bucket.rows, dtype=torch.int32)
        count, pages = tables.pages.shape
        rows[:, :count] = tables.row_offsets
        self._tokens[:, : bucket.tokens].copy_(tokens)
        self._rows[:, : bucket.rows].copy_(rows)
        self._pages[:count, :pages].copy_(tables.pages)

    def forward_arguments(
        self, bucket: Bucket, cache: KvCache, backend: TritonPagedAttention
    ) -> tuple[Tensor, Tensor, DeviceLayout, Tensor]:
        """The part of the buffers that `bucket` uses, as arguments of a `Forward`."""
        tokens, rows = self._tokens[:, : bucket.tokens], self._rows[:, : bucket.rows]
        tables = PageTables(self._pages[: bucket.rows], rows, bucket.width)
        layout = DeviceLayout(cache, tokens[2], tables, (), backend)
        return tokens[0:1], tokens[1:2], layout, tokens[3]


class ForwardGraphs:
    """Runs packed forwards: replayed if their bucket is recorded, otherwise eagerly."""

    def __init__(
        self,
        forward: Forward,
        eager: Callable[[PackedBatch], Tensor],
        cache: KvCache,
        backend: TritonPagedAttention,
        largest: Bucket,
        max_pages: int,
        new_graph: Callable[[], Graph] | None = None,
    ) -> None:
        """`eager` runs what is not recorded; `new_graph` makes graphs, by default CUDA's."""
        self._forward, self._eager = forward, eager
        self._cache, self._backend, self._largest = cache, backend, largest
        self._inputs = GraphInputs(largest, max_pages, backend.device)
        self._output_buffer = torch.empty(0)
        """All buckets write their logits here, so that the memory that a recording allocates is
        free again at its end, for the next recording."""
        self._recorder = GraphRecorder(largest, self._make_work, new_graph)

    def __call__(self, packed: PackedBatch) -> Tensor:
        """Logits [N, V] of `packed`, which is on the host; valid until the next call."""
        bucket = self._bucket_for(packed.layout.segments)
        if bucket is None:
            return self._eager(packed)
        graph = self._recorder.get(bucket)
        if graph is None:
            logits = self._eager(packed)
            if not len(self._output_buffer):
                self._output_buffer = logits.new_empty(self._largest.tokens, logits.shape[1])
            self._recorder.observe(bucket)
            return logits
        self._inputs.fill(packed, bucket)
        graph.replay()
        return self._output_buffer[: len(packed.logit_indices)]

    @property
    def recorded(self) -> tuple[Bucket, ...]:
        """The buckets that are replayed, in the order of their recording."""
        return self._recorder.recorded

    def _bucket_for(self, segments: Sequence[Segment]) -> Bucket | None:
        width = max(part.stop - part.start for part in segments)
        return find_bucket(len(segments), width, self._largest)

    def _make_work(self, wanted: Bucket) -> Callable[[], None]:
        """The forward of `wanted`, with blank inputs."""
        self._inputs.clear(wanted)
        inputs = self._inputs.forward_arguments(wanted, self._cache, self._backend)
        output = self._output_buffer[: wanted.tokens]

        def work() -> None:
            output.copy_(self._forward(*inputs))

        return work
