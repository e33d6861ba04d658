"""Times of a device: recorded for people, never asserted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton

from shard.attention.device_layout import split_count
from shard.model.graph_recorder import CudaGraph
from tests.support.gpu import Record, milliseconds
from tests.support.paged import AttentionCase, PagedPool

pytestmark = pytest.mark.gpu
BYTES = 1 << 28


def test_versions(record: Record) -> None:
    record("device", torch.cuda.get_device_name())
    record("torch", torch.__version__)
    record("cuda", torch.version.cuda)
    record("triton", triton.__version__)


@pytest.mark.parametrize("direction", ["to device", "to host"])
def test_pinned_copies(direction: str, record: Record) -> None:
    host = torch.empty(BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(BYTES, dtype=torch.uint8, device="cuda")
    source, sink = (host, there) if direction == "to device" else (there, host)
    taken = milliseconds(lambda: sink.copy_(source, non_blocking=True))
    record(f"GB/s {direction}, pinned", BYTES / taken / 1e6)


@pytest.mark.parametrize("length", [1024, 8192])
@pytest.mark.parametrize("rows", [1, 8, 32])
def test_verification_of_five_tokens(rows: int, length: int, record: Record) -> None:
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    case = AttentionCase(32, 8, 128, torch.bfloat16, (5,) * rows, (length,) * rows)
    pool = PagedPool(replace(case, splits=split_count(processors, 8 * rows)))
    name = f"{rows} rows of 5 tokens at {length}"
    record(f"ms kernel, {name}", milliseconds(pool.kernel))

    def attend() -> None:
        pool.kernel()

    graph = CudaGraph(torch.cuda.graph_pool_handle())
    graph.record(attend)
    record(f"ms kernel in a graph, {name}", milliseconds(graph.replay))
    keys = torch.randn(rows * length, 8, 128, device="cuda", dtype=torch.bfloat16)
    query = pool.query.contiguous()
    edges = [
        torch.arange(0, rows * size + 1, size, device="cuda", dtype=torch.int32)
        for size in (5, length)
    ]
    flash = torch.ops.aten._flash_attention_forward
    record(
        f"ms flash over whole runs, {name}",
        milliseconds(lambda: flash(query, keys, keys, *edges, 5, length, 0.0, True, False)),
    )
