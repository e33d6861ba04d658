"""Which attention a device gets, chosen once at start from what is really there.

A backend is asked once per forward to plan a layout, so that what all layers share (page tables,
sequence offsets) is uploaded once. It knows segments and devices, no model and no request.

* `SdpaAttention`: `PagedLayout` itself, for the CPU and every device without Triton or older than
Ampere.
* `TritonPagedAttention`: CUDA. Rows that feed a few tokens attend through one kernel over the page
table;
  longer ones, which is prefill, through torch's variable-length flash operator where its schema,
  the dtype and the layer's rule allow, else through SDPA.
* `TorchPagedAttention`: what resident rounds use where there is no such kernel.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from shard.attention.interface import AttentionParams, Layout, PagedLayout, Segment
from shard.attention.kv_cache import PAGE_SIZE, KvCache
from shard.attention.paged_torch import paged_attention

MAX_KERNEL_TOKENS = 16
"""Most tokens of a row that the paged kernel takes; beyond them the work is a prefill's."""
_MAX_SPLITS = 32
_REQUIRED_FLASH_ARGUMENTS = {
    "cum_seq_q",
    "cum_seq_k",
    "max_q",
    "max_k",
    "is_causal",
    "scale",
    "window_size_left",
}
_log = logging.getLogger(__name__)

FlashOperator = Callable[..., Sequence[Any]]
"""An operator with the schema of `aten::_flash_attention_forward`."""
PagedKernel = Callable[..., None]
"""With the contract of `paged_triton.paged_attention`, for an output of zeros."""


class AttentionBackend(Protocol):
    """A way to attend. `name` is for people."""

    name: str

    def plan(self, layout: PagedLayout) -> Layout:
        """What runs `layout` on this device, ready for every layer of one forward."""


class SdpaAttention:
    """Leaves every layout as it is: it attends row by row, over slices of the pool."""

    name = "sdpa_rows"

    def plan(self, layout: PagedLayout) -> PagedLayout:
        """See `AttentionBackend`."""
        return layout


def choose_backend(device: torch.device) -> AttentionBackend:
    """The best backend that `device` supports; what falls short is logged with its reason."""
    if device.type != "cuda":
        return SdpaAttention()
    if importlib.util.find_spec("triton") is None:
        _log.warning("triton is not installed: attention falls back to SDPA row by row")
        return SdpaAttention()
    if torch.cuda.get_device_capability(device) < (8, 0):
        _log.warning("the GPU is older than Ampere: attention falls back to SDPA row by row")
        return SdpaAttention()
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return TritonPagedAttention(device, processors, flash_operator())


def paged_backend(backend: AttentionBackend, device: torch.device) -> TritonPagedAttention:
    """What attends by page tables that lie on `device`: `backend`, or its plain stand-in."""
    return (
        backend
        if isinstance(backend, TritonPagedAttention)
        else TorchPagedAttention(device, 1, None)
    )


def flash_operator() -> FlashOperator | None:
    """torch's variable-length flash attention, if its schema has all that a prefill needs."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    if operator is None or not has_prefill_arguments(
        {item.name for item in operator.default._schema.arguments}
    ):
        _log.warning("torch's flash operator lacks arguments: prefill attends by SDPA")
        return None
    found: FlashOperator = operator.default
    return found


def has_prefill_arguments(arguments: set[str]) -> bool:
    """Whether an operator with these argument names can attend a prefill."""
    return arguments >= _REQUIRED_FLASH_ARGUMENTS


class TritonPagedAttention:
    """Paged kernels for short segments, flash or SDPA for long ones."""

    name = "triton_paged"

    def __init__(
        self, device: torch.device, multiprocessors: int, flash: FlashOperator | None
    ) -> None:
        """`processors` is the device's number of multiprocessors, which sets the KV splits."""
        self.device, self.multiprocessors, self.flash = device, multiprocessors, flash

    def plan(self, layout: PagedLayout) -> DeviceLayout:
        """See `AttentionBackend`."""
        short = [part for part in layout.segments if part.stop - part.start <= MAX_KERNEL_TOKENS]
        long = [part for part in layout.segments if part.stop - part.start > MAX_KERNEL_TOKENS]
        tables = PageTables.from_segments(short).to(self.device) if short else None
        chunks = tuple(LongSegment.from_segment(part, layout, self.device) for part in long)
        return DeviceLayout(layout.cache, layout.slots, tables, chunks, self)

    @property
    def kernel(self) -> PagedKernel:
        """What attends short rows."""
        from shard.attention.paged_triton import paged_attention

        return paged_attention


class TorchPagedAttention(TritonPagedAttention):
    """The same without Triton."""

    name = "gathered_paged"

    @property
    def kernel(self) -> PagedKernel:
        """See `TritonPagedAttention`."""
        return paged_attention


@dataclass(frozen=True, slots=True)
class PageTables:
    """Rows for the paged kernel, int32: `pages` [R, P]; `starts`, `counts`, `lengths` in [3, R]."""

    pages: Tensor
    row_offsets: Tensor
    max_tokens: int
    """Most tokens of one row."""

    @classmethod
    def from_segments(cls, segments: Sequence[Segment]) -> PageTables:
        """Describe `segments`, on the host."""
        rows = [(part.start, part.stop - part.start, part.length) for part in segments]
        pages = torch.zeros(len(rows), -(-max(row[2] for row in rows) // PAGE_SIZE)).int()
        for place, part in enumerate(segments):
            own = [torch.arange(s.start // PAGE_SIZE, -(-s.stop // PAGE_SIZE)) for s in part.spans]
            table = torch.cat(own)
            pages[place, : len(table)] = table
        width = max(row[1] for row in rows)
        return cls(pages, torch.tensor(rows, dtype=torch.int32).T.contiguous(), width)

    def to(self, device: torch.device) -> PageTables:
        """The same on `device`."""
        return PageTables(self.pages.to(device), self.row_offsets.to(device), self.max_tokens)


@dataclass(frozen=True, slots=True)
class LongSegment:
    """A long segment, ready for flash and for SDPA."""

    segment: Segment
    query_offsets: Tensor
    key_offsets: Tensor
    """Offsets of the one sequence as the flash operator wants them, int32 [2] each."""
    sdpa_layout: PagedLayout

    @classmethod
    def from_segment(
        cls, segment: Segment, layout: PagedLayout, device: torch.device
    ) -> LongSegment:
        """The chunk of `part`, one of the segments of `layout`."""
        count = segment.stop - segment.start
        queries, keys = torch.tensor([[0, count], [0, segment.length]], dtype=torch.int32).to(
            device
        )
        alone = PagedLayout(layout.cache, layout.slots, [replace(segment, start=0, stop=count)])
        return cls(segment, queries, keys, alone)


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """A planned layout: `tables` for short rows, long ones chunk by chunk."""

    cache: KvCache
    slots: Tensor
    tables: PageTables | None
    long_segments: tuple[LongSegment, ...]
    backend: TritonPagedAttention

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """See `Layout`. Tokens of no row, the padding of a graph, get zeros."""
        self.cache.write(index, self.slots, new_kv)
        out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
        if self.tables is not None:
            self._attend_short(self.tables, index, query, params, out)
        for chunk in self.long_segments:
            own = slice(chunk.segment.start, chunk.segment.stop)
            out[own] = self._attend_long(index, query[own], chunk, params)
        return out

    def _attend_short(
        self, tables: PageTables, index: int, query: Tensor, params: AttentionParams, out: Tensor
    ) -> None:
        pool = self.cache.pool(index)
        starts, counts, lengths = tables.row_offsets
        self.backend.kernel(
            *(query, pool, tables.pages, starts, counts, lengths, out),
            page=PAGE_SIZE,
            width=tables.max_tokens,
            splits=split_count(self.backend.multiprocessors, len(counts) * (pool.shape[1] // 2)),
            scale=params.scale,
            window=params.window,
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
            *(query, keys.transpose(0, 1), values.transpose(0, 1)),
            *(segment.query_offsets, segment.key_offsets),
            *(query.shape[0], segment.segment.length, 0.0, True, False),
            scale=params.scale,
            window_size_left=None if params.window is None else params.window - 1,
            window_size_right=None if params.window is None else 0,
        )[0]
        return result


def split_count(multiprocessors: int, programs: int) -> int:
    """Into how many parts keys are split so that `programs` keep all processors busy twice."""
    wanted = max(1, min(_MAX_SPLITS, 2 * multiprocessors // programs))
    return 1 << (wanted.bit_length() - 1)  # a power of two: each count is a kernel of its own


def flash_supports(query: Tensor, params: AttentionParams) -> bool:
    """Whether the flash operator computes `rule` for such queries."""
    size = query.shape[-1]
    return (
        params.is_plain
        and query.dtype in (torch.float16, torch.bfloat16)
        and size <= 256
        and not size % 8
    )
