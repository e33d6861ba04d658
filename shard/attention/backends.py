"""Which attention backend a device gets, chosen once at start from what is available.

A backend plans a layout once per forward, so that what all layers share (page tables, sequence
offsets) is uploaded once. It knows segments and devices, no model and no request.

* `SdpaAttention`: `PagedLayout` itself, for the CPU and for GPUs without Triton or older than
  Ampere.
* `TritonPagedAttention`: CUDA. Rows with a few new tokens attend through one kernel over the page
  table; longer ones, which are prefills, through torch's variable-length flash operator if its
  schema, the dtype and the layer allow, otherwise through SDPA.
* `TorchPagedAttention`: for device rounds where there is no Triton kernel.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Protocol

import torch

from shard.attention.device_layout import (
    DeviceLayout,
    FlashOperator,
    LongSegment,
    PagedKernel,
    PageTables,
)
from shard.attention.interface import Layout
from shard.attention.paged_layout import PagedLayout
from shard.attention.paged_torch import paged_attention

MAX_KERNEL_TOKENS = 16
"""Maximum number of new tokens of a row for the paged kernel; longer rows are prefills."""
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


class AttentionBackend(Protocol):
    """A way to attend; `name` appears in messages."""

    name: str

    def plan(self, layout: PagedLayout) -> Layout:
        """The layout that runs `layout` on this device, for all layers of one forward."""


class SdpaAttention:
    """Uses every layout unchanged: it attends row by row, over slices of the pool."""

    name = "sdpa_rows"

    def plan(self, layout: PagedLayout) -> PagedLayout:
        """See `AttentionBackend`."""
        return layout


def choose_backend(device: torch.device) -> AttentionBackend:
    """The best backend that `device` supports; a fallback is logged with its reason."""
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
    """The backend for page tables on `device`: `backend` if it has a kernel, or plain torch."""
    if isinstance(backend, TritonPagedAttention):
        return backend
    return TorchPagedAttention(device, 1, None)


def flash_operator() -> FlashOperator | None:
    """torch's variable-length flash attention, if its schema has the needed arguments."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    if operator is None or not has_prefill_arguments(
        {item.name for item in operator.default._schema.arguments}
    ):
        _log.warning("torch's flash operator lacks arguments: prefill attends by SDPA")
        return None
    flash: FlashOperator = operator.default
    return flash


def has_prefill_arguments(arguments: set[str]) -> bool:
    """Whether an operator with these argument names can do a prefill."""
    return arguments >= _REQUIRED_FLASH_ARGUMENTS


class TritonPagedAttention:
    """Paged kernels for short segments, flash or SDPA for long ones."""

    name = "triton_paged"

    def __init__(
        self, device: torch.device, multiprocessors: int, flash: FlashOperator | None
    ) -> None:
        """`flash` is the operator for long segments; None: SDPA."""
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
        """See `PagedKernels`."""
        from shard.attention.paged_triton import paged_attention

        return paged_attention


class TorchPagedAttention(TritonPagedAttention):
    """The same without Triton, in plain torch operations."""

    name = "gathered_paged"

    @property
    def kernel(self) -> PagedKernel:
        """See `TritonPagedAttention`."""
        return paged_attention
