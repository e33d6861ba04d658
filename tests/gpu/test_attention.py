"""Compiled kernels and torch's flash operator against attention by its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shard.attention.backends import (
    MAX_KERNEL_TOKENS,
    TritonPagedAttention,
    choose_backend,
    flash_operator,
)
from shard.attention.kv_cache import PAGE_SIZE, KvCache, LayerShape, slot_spans
from shard.attention.paged_layout import PagedLayout
from shard.attention.sdpa_padded import Segment
from shard.attention.sdpa_row import AttentionParams
from tests.support.gpu import Record
from tests.support.paged import RULES, TOLERANCE, AttentionCase, max_difference

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
RAGGED = AttentionCase(counts=(1, 2, 3, 4, 5, 6), lengths=(16, 17, 1000, 64, 65, 6), splits=8)
WINDOWS = [None, 40]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_compiled_kernels_attend_exactly(group: int, dim: int, dtype: torch.dtype) -> None:
    case = replace(RAGGED, heads=2 * group, kv_heads=2, dim=dim, dtype=dtype)
    assert max_difference(case) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_compiled_kernels_keep_every_rule(rule: AttentionCase, dtype: torch.dtype) -> None:
    assert max_difference(replace(rule, dtype=dtype)) < TOLERANCE[dtype]


def test_a_device_gets_the_paged_backend(device: torch.device, record: Record) -> None:
    backend = choose_backend(device)
    schema = torch.ops.aten._flash_attention_forward.default._schema
    record("flash schema", str(schema))
    assert isinstance(backend, TritonPagedAttention)
    assert backend.flash is not None


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("pages", [[4, 5, 6, 7, 8], [8, 3, 4, 1, 2]], ids=["one run", "runs"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_flash_aligns_a_prefill_chunk_with_the_end_of_its_row(
    dtype: torch.dtype, pages: list[int], window: int | None, device: torch.device
) -> None:
    length, count = 75, MAX_KERNEL_TOKENS + 10
    cache = KvCache([LayerShape(2, 64)], 8, dtype, device)
    cache.pool(0).copy_(torch.randn(9 * PAGE_SIZE, 4, 64))
    own = slot_spans(pages, length)
    slots = [slot for span in own for slot in range(span.start, span.stop)][-count:]
    segment = Segment(0, count, length, own)
    layout = PagedLayout(cache, torch.tensor(slots, device=device), (segment,))
    fresh = torch.randn(count, 4, 64, device=device, dtype=dtype)
    query = torch.randn(count, 8, 64, device=device, dtype=dtype)
    rule = AttentionParams(0.125, window, None, None)
    wanted = layout.attend_layer(0, fresh, query, rule)
    found = (
        TritonPagedAttention(device, 8, flash_operator())
        .plan(layout)
        .attend_layer(0, fresh, query, rule)
    )
    torch.testing.assert_close(found, wanted, atol=TOLERANCE[dtype], rtol=0)
