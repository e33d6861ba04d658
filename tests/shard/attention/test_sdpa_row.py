"""A row whose pages lie in several long runs attends to what one in a single run attends to."""

from __future__ import annotations

from itertools import accumulate
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from shard.attention import paged_layout
from shard.attention.kv_cache import KvCache, LayerShape
from shard.attention.paged_layout import PagedLayout
from shard.attention.sdpa_padded import Segment
from shard.attention.sdpa_row import AttentionParams, attend_spans

HEADS, KV_HEADS, DIM = 4, 2, 16
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
CPU = torch.device("cpu")


def paged(
    lengths: tuple[int, ...], count: int, query: Tensor, keys: Tensor, rule: AttentionParams
) -> Tensor:
    """What `count` tokens see of a row that lies in runs of `lengths` tokens, gaps between them."""
    starts = [start + 100 * place for place, start in enumerate(accumulate((0, *lengths[:-1])))]
    spans = tuple(
        slice(start, start + length) for start, length in zip(starts, lengths, strict=True)
    )
    cache = KvCache([LayerShape(KV_HEADS, DIM)], spans[-1].stop // 16 + 1, query.dtype, CPU)
    slots = torch.cat([torch.arange(span.start, span.stop) for span in spans])
    cache.write(0, slots[:-count], keys[:-count])
    layout = PagedLayout(cache, slots[-count:], [Segment(0, count, sum(lengths), spans)])
    return layout.attend_layer(0, keys[-count:], query, rule)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("lengths", [(700, 600), (1500, 41), (300, 900, 800)], ids=str)
def test_long_runs_are_attended_to_without_joining_them(
    dtype: torch.dtype, count: int, lengths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    query = torch.randn(count, HEADS, DIM).to(dtype)
    keys = torch.randn(sum(lengths), 2 * KV_HEADS, DIM).to(dtype)
    rule = AttentionParams(DIM**-0.5, None, None, None)
    with patch.object(paged_layout, "attend_spans", wraps=attend_spans) as apart:
        found = paged(lengths, count, query, keys, rule)
        assert apart.call_count == 1
        whole = paged((sum(lengths),), count, query, keys, rule)
        assert apart.call_count == 1
    assert (found - whole).abs().max() < TOLERANCE[dtype]


JOINED = {
    "a token sees nothing of the last run": ((1500, 4), AttentionParams(0.25, None, None, None)),
    "short runs": ((300, 300), AttentionParams(0.25, None, None, None)),
    "window": ((900, 900), AttentionParams(0.25, 1000, None, None)),
    "chunk": ((900, 900), AttentionParams(0.25, None, None, None, 1797)),
    "long chunk": ((900, 900), AttentionParams(0.25, None, None, None, 5000)),
    "soft cap": ((900, 900), AttentionParams(0.25, None, 20.0, None)),
    "sinks": ((900, 900), AttentionParams(0.25, None, None, torch.ones(HEADS))),
}


@pytest.mark.parametrize(("lengths", "rule"), JOINED.values(), ids=JOINED)
def test_other_rows_are_joined(lengths: tuple[int, ...], rule: AttentionParams) -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(5, HEADS, DIM), torch.randn(sum(lengths), 2 * KV_HEADS, DIM)
    with patch.object(paged_layout, "attend_spans") as apart:
        found = paged(lengths, 5, query, keys, rule)
        whole = paged((sum(lengths),), 5, query, keys, rule)
    assert not apart.called
    assert torch.equal(found, whole)


@pytest.mark.parametrize("chunk", [1, 4, 7, 16, 40, 64])
@pytest.mark.parametrize("count", [1, 3, 9, 40])
def test_a_token_sees_only_its_own_chunk(chunk: int, count: int) -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(count, HEADS, DIM), torch.randn(40, 2 * KV_HEADS, DIM)
    found = paged((25, 15), count, query, keys, AttentionParams(0.25, None, None, None, chunk))
    every_key = AttentionParams(0.25, None, None, None)
    for token, position in enumerate(range(40 - count, 40)):
        own = keys[position // chunk * chunk : position + 1]
        alone = paged((len(own),), 1, query[token : token + 1], own, every_key)
        assert (found[token] - alone[0]).abs().max() < 2e-6
