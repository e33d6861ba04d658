"""A layout whose page tables are on the device: short rows by a paged kernel, long ones apart.

It attends as planned. Which kernel and which operator a device has is decided in `backends`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from shard import progress
from shard.attention.kv_cache import PAGE_SIZE, KvCache
from shard.attention.paged_layout import PagedLayout
from shard.attention.sdpa_padded import Segment
from shard.attention.sdpa_row import AttentionParams

_MAX_SPLITS = 32

FlashOperator = Callable[..., Sequence[Any]]
"""An operator with the schema of `aten::_flash_attention_forward`."""
PagedKernel = Callable[..., None]
"""With the contract of `paged_triton.paged_attention`, for an output of zeros."""


class PagedKernels(Protocol):
    """What a device offers for attention over pages."""

    @property
    def multiprocessors(self) -> int:
        """Number of multiprocessors of the device, which sets the splits of the keys."""

    @property
    def flash(self) -> FlashOperator | None:
        """Flash attention for long rows; None: SDPA."""

    @property
    def kernel(self) -> PagedKernel:
        """Attention of short rows."""


@dataclass(frozen=True, slots=True)
class PageTables:
    """Rows for the paged kernel, int32."""

    pages: Tensor
    """Page ids, [R, P]."""
    row_offsets: Tensor
    """Starts, counts and lengths of the rows, [3, R]; see `paged_triton.paged_attention`."""
    max_tokens: int
    """Maximum number of new tokens of one row."""

    @classmethod
    def from_segments(cls, segments: Sequence[Segment]) -> PageTables:
        """The tables of `segments`, on the host."""
        rows = [(part.start, part.stop - part.start, part.length) for part in segments]
        pages = torch.zeros(len(rows), -(-max(row[2] for row in rows) // PAGE_SIZE)).int()
        for row, part in zip(pages, segments, strict=True):
            ids = [torch.arange(s.start // PAGE_SIZE, -(-s.stop // PAGE_SIZE)) for s in part.spans]
            table = torch.cat(ids)
            row[: len(table)] = table
        width = max(row[1] for row in rows)
        return cls(pages, torch.tensor(rows, dtype=torch.int32).T.contiguous(), width)

    def recent_slots(self, count: int, padding: int) -> tuple[Tensor, Tensor]:
        """The tokens of all rows [N], and the slots of the last `count` positions of each.

        The slots are int64 [N, count]; -1: there is none. Rows have N / R tokens each, of which
        those that are not real are called `padding`.
        """
        starts, counts, lengths = self.row_offsets.long()[..., None].unbind()
        lanes = torch.arange(self.max_tokens, device=self.pages.device)
        used = lanes < counts
        before = torch.arange(1 - count, 1, device=self.pages.device)
        positions = torch.where(used, lengths - counts + lanes, 0)[..., None] + before
        held = positions.clamp(min=0).flatten(1)
        slots = self.pages.long().gather(1, held // PAGE_SIZE) * PAGE_SIZE + held % PAGE_SIZE
        recent = torch.where(positions < 0, -1, slots.view(positions.shape))
        return torch.where(used, starts + lanes, padding).flatten(), recent.flatten(0, 1)

    def to(self, device: torch.device) -> PageTables:
        """The same tables on `device`."""
        return PageTables(self.pages.to(device), self.row_offsets.to(device), self.max_tokens)


@dataclass(frozen=True, slots=True)
class LongSegment:
    """A long segment, prepared for flash and for SDPA."""

    segment: Segment
    query_offsets: Tensor
    key_offsets: Tensor
    """Offsets of the single sequence in the form of the flash operator, int32 [2] each."""
    sdpa_layout: PagedLayout

    @classmethod
    def from_segment(
        cls, segment: Segment, layout: PagedLayout, device: torch.device
    ) -> LongSegment:
        """Prepare `segment`, which is one of `layout`."""
        count = segment.stop - segment.start
        queries, keys = torch.tensor([[0, count], [0, segment.length]], dtype=torch.int32).to(
            device
        )
        alone = PagedLayout(layout.cache, layout.slots, [replace(segment, start=0, stop=count)])
        return cls(segment, queries, keys, alone)


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """A planned layout: `tables` for short rows, long rows one by one."""

    cache: KvCache
    slots: Tensor
    tables: PageTables | None
    long_segments: tuple[LongSegment, ...]
    backend: PagedKernels

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """See `Layout`. Tokens without a row, which pad a graph, get zeros."""
        progress.advance()
        self.cache.write(index, self.slots, new_kv)
        out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
        if self.tables is not None:
            self._attend_short(self.tables, index, query, params, out)
        for long in self.long_segments:
            tokens = slice(long.segment.start, long.segment.stop)
            out[tokens] = self._attend_long(index, query[tokens], long, params)
        return out

    def recall_layer(self, index: int, new_values: Tensor, count: int) -> Tensor:
        """See `Layout`. Tokens without a row get zeros."""
        progress.advance()
        self.cache.write(index, self.slots, new_values)
        slots = new_values.new_full((len(new_values) + 1, count), -1, dtype=torch.int64)
        if self.tables is not None:
            tokens, recent = self.tables.recent_slots(count, padding=len(new_values))
            slots[tokens] = recent
        for long in self.long_segments:
            slots[long.segment.start : long.segment.stop] = long.sdpa_layout.recent_slots(count)
        return self.cache.read_slots(index, slots[:-1])

    def _attend_short(
        self, tables: PageTables, index: int, query: Tensor, params: AttentionParams, out: Tensor
    ) -> None:
        pool = self.cache.pool(index)
        starts, counts, lengths = tables.row_offsets
        self.backend.kernel(
            query,
            pool,
            tables.pages,
            starts,
            counts,
            lengths,
            out,
            page=PAGE_SIZE,
            width=tables.max_tokens,
            splits=split_count(self.backend.multiprocessors, len(counts) * (pool.shape[1] // 2)),
            scale=params.scale,
            visibility=params.visibility,
            softcap=params.softcap,
            sinks=params.sinks,
        )

    def _attend_long(
        self, index: int, query: Tensor, segment: LongSegment, params: AttentionParams
    ) -> Tensor:
        keys, values = self.cache.read(index, segment.segment.spans)
        if self.backend.flash is None or not flash_supports(query, params):
            return segment.sdpa_layout.attend(index, query, params, query.shape[1] // len(keys))
        result: Tensor = self.backend.flash(
            query,
            keys.transpose(0, 1),
            values.transpose(0, 1),
            segment.query_offsets,
            segment.key_offsets,
            query.shape[0],
            segment.segment.length,
            0.0,  # dropout
            True,  # causal
            False,  # return debug mask
            scale=params.scale,
            window_size_left=None if params.window is None else params.window - 1,
            window_size_right=None if params.window is None else 0,
        )[0]
        return result


def split_count(multiprocessors: int, programs: int) -> int:
    """Number of splits of the keys with which `programs` fill all multiprocessors twice."""
    wanted = max(1, min(_MAX_SPLITS, 2 * multiprocessors // programs))
    return 1 << (wanted.bit_length() - 1)  # a power of two, since each count compiles a kernel


def flash_supports(query: Tensor, params: AttentionParams) -> bool:
    """Whether the flash operator supports `params` for such queries."""
    size = query.shape[-1]
    return (
        params.is_plain
        and params.chunk is None
        and query.dtype in (torch.float16, torch.bfloat16)
        and size <= 256
        and not size % 8
    )
