"""Which attention a device gets, chosen once at start from what is really there.

A backend is asked once per forward to plan a layout, so that what all layers share (page tables,
sequence offsets) is uploaded once. It knows segments and devices, no model and no request.

* `SdpaRows`: `Paged` itself, for the CPU and every device without Triton or older than Ampere.
* `TritonPaged`: CUDA. Rows that feed a few tokens attend through one kernel over the page table;
  longer ones, which is prefill, through torch's variable-length flash operator where its schema,
  the dtype and the layer's rule allow, else through SDPA.
* `GatheredPaged`: what resident rounds use where there is no such kernel.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from shard.attention.interface import Layout, Paged, Rule, Segment
from shard.attention.kv_cache import PAGE_SIZE, KvCache
from shard.attention.paged_torch import paged_attention

SHORT = 16
"""Most tokens of a row that the paged kernel takes; beyond them the work is a prefill's."""
_MOST_SPLITS = 32
_NEEDED = {"cum_seq_q", "cum_seq_k", "max_q", "max_k", "is_causal", "scale", "window_size_left"}
_log = logging.getLogger(__name__)

Flash = Callable[..., Sequence[Any]]
"""An operator with the schema of `aten::_flash_attention_forward`."""
Kernel = Callable[..., None]
"""With the contract of `kernels.paged_attention`, for an output of zeros."""


class Backend(Protocol):
    """A way to attend. `name` is for people."""

    name: str

    def plan(self, layout: Paged) -> Layout:
        """What runs `layout` on this device, ready for every layer of one forward."""


class SdpaRows:
    """Leaves every layout as it is: it attends row by row, over slices of the pool."""

    name = "sdpa_rows"

    def plan(self, layout: Paged) -> Paged:
        """See `Backend`."""
        return layout


def choose(device: torch.device) -> Backend:
    """The best backend that `device` supports; what falls short is logged with its reason."""
    if device.type != "cuda":
        return SdpaRows()
    if importlib.util.find_spec("triton") is None:
        _log.warning("triton is not installed: attention falls back to SDPA row by row")
        return SdpaRows()
    if torch.cuda.get_device_capability(device) < (8, 0):
        _log.warning("the GPU is older than Ampere: attention falls back to SDPA row by row")
        return SdpaRows()
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return TritonPaged(device, processors, flash_operator())


def tables(backend: Backend, device: torch.device) -> TritonPaged:
    """What attends by page tables that lie on `device`: `backend`, or its plain stand-in."""
    return backend if isinstance(backend, TritonPaged) else GatheredPaged(device, 1, None)


def flash_operator() -> Flash | None:
    """torch's variable-length flash attention, if its schema has all that a prefill needs."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    if operator is None or not suffices({item.name for item in operator.default._schema.arguments}):
        _log.warning("torch's flash operator lacks arguments: prefill attends by SDPA")
        return None
    found: Flash = operator.default
    return found


def suffices(arguments: set[str]) -> bool:
    """Whether an operator with these argument names can attend a prefill."""
    return arguments >= _NEEDED


class TritonPaged:
    """Paged kernels for short segments, flash or SDPA for long ones."""

    name = "triton_paged"

    def __init__(self, device: torch.device, processors: int, flash: Flash | None) -> None:
        """`processors` is the device's number of multiprocessors, which sets the KV splits."""
        self.device, self.processors, self.flash = device, processors, flash

    def plan(self, layout: Paged) -> DeviceLayout:
        """See `Backend`."""
        short = [part for part in layout.segments if part.stop - part.start <= SHORT]
        long = [part for part in layout.segments if part.stop - part.start > SHORT]
        tables = Tables.of(short).to(self.device) if short else None
        chunks = tuple(Chunk.of(part, layout, self.device) for part in long)
        return DeviceLayout(layout.cache, layout.slots, tables, chunks, self)

    @property
    def kernel(self) -> Kernel:
        """What attends short rows."""
        from shard.attention.paged_triton import paged_attention

        return paged_attention


class GatheredPaged(TritonPaged):
    """The same without Triton."""

    name = "gathered_paged"

    @property
    def kernel(self) -> Kernel:
        """See `TritonPaged`."""
        return paged_attention


@dataclass(frozen=True, slots=True)
class Tables:
    """Rows for the paged kernel, int32: `pages` [R, P]; `starts`, `counts`, `lengths` in [3, R]."""

    pages: Tensor
    rows: Tensor
    width: int
    """Most tokens of one row."""

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> Tables:
        """Describe `segments`, on the host."""
        rows = [(part.start, part.stop - part.start, part.length) for part in segments]
        pages = torch.zeros(len(rows), -(-max(row[2] for row in rows) // PAGE_SIZE)).int()
        for place, part in enumerate(segments):
            own = [torch.arange(s.start // PAGE_SIZE, -(-s.stop // PAGE_SIZE)) for s in part.spans]
            table = torch.cat(own)
            pages[place, : len(table)] = table
        width = max(row[1] for row in rows)
        return cls(pages, torch.tensor(rows, dtype=torch.int32).T.contiguous(), width)

    def to(self, device: torch.device) -> Tables:
        """The same on `device`."""
        return Tables(self.pages.to(device), self.rows.to(device), self.width)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A long segment, ready for flash and for SDPA."""

    segment: Segment
    queries: Tensor
    keys: Tensor
    """Offsets of the one sequence as the flash operator wants them, int32 [2] each."""
    alone: Paged

    @classmethod
    def of(cls, part: Segment, layout: Paged, device: torch.device) -> Chunk:
        """The chunk of `part`, one of the segments of `layout`."""
        count = part.stop - part.start
        queries, keys = torch.tensor([[0, count], [0, part.length]], dtype=torch.int32).to(device)
        alone = Paged(layout.cache, layout.slots, [replace(part, start=0, stop=count)])
        return cls(part, queries, keys, alone)


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """A planned layout: `tables` for short rows, long ones chunk by chunk."""

    cache: KvCache
    slots: Tensor
    tables: Tables | None
    chunks: tuple[Chunk, ...]
    device: TritonPaged

    def layer(self, index: int, fresh: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """See `Layout`. Tokens of no row, the padding of a graph, get zeros."""
        self.cache.write(index, self.slots, fresh)
        out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
        if self.tables is not None:
            self._short(self.tables, index, query, rule, out)
        for chunk in self.chunks:
            own = slice(chunk.segment.start, chunk.segment.stop)
            out[own] = self._long(index, query[own], chunk, rule)
        return out

    def _short(self, tables: Tables, index: int, query: Tensor, rule: Rule, out: Tensor) -> None:
        pool = self.cache.pool(index)
        starts, counts, lengths = tables.rows
        self.device.kernel(
            *(query, pool, tables.pages, starts, counts, lengths, out),
            page=PAGE_SIZE,
            width=tables.width,
            splits=splits(self.device.processors, len(counts) * (pool.shape[1] // 2)),
            scale=rule.scale,
            window=rule.window,
            softcap=rule.softcap,
            sinks=rule.sinks,
        )

    def _long(self, index: int, query: Tensor, chunk: Chunk, rule: Rule) -> Tensor:
        keys, values = self.cache.read(index, chunk.segment.spans)
        if self.device.flash is None or not flashable(query, rule):
            return chunk.alone.attend(index, query, rule, query.shape[1] // len(keys))
        result: Tensor = self.device.flash(
            *(query, keys.transpose(0, 1), values.transpose(0, 1)),
            *(chunk.queries, chunk.keys),
            *(query.shape[0], chunk.segment.length, 0.0, True, False),
            scale=rule.scale,
            window_size_left=None if rule.window is None else rule.window - 1,
            window_size_right=None if rule.window is None else 0,
        )[0]
        return result


def splits(processors: int, programs: int) -> int:
    """Into how many parts keys are split so that `programs` keep all processors busy twice."""
    wanted = max(1, min(_MOST_SPLITS, 2 * processors // programs))
    return 1 << (wanted.bit_length() - 1)  # a power of two: each count is a kernel of its own


def flashable(query: Tensor, rule: Rule) -> bool:
    """Whether the flash operator computes `rule` for such queries."""
    size = query.shape[-1]
    return (
        rule.plain
        and query.dtype in (torch.float16, torch.bfloat16)
        and size <= 256
        and not size % 8
    )
