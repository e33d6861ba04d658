"""Rows that attend together see what each sees alone: its own tokens, as far as it may."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from shard.attention import paged_layout
from shard.attention.kv_cache import PAGE_SIZE, KvCache, LayerShape, slot_index, slot_spans
from shard.attention.paged_layout import PagedLayout
from shard.attention.sdpa_padded import MAX_BATCHED_TOKENS, PaddedRows, Segment
from shard.attention.sdpa_row import AttentionParams

HEADS, KV_HEADS, DIM = 4, 2, 16
CPU = torch.device("cpu")
PLAIN = AttentionParams(DIM**-0.5, None, None, None)
CASES = {
    "one token each": ((1, 1, 1), (40, 7, 16)),
    "drafts of one length": ((4, 4), (4, 90)),
    "ragged": ((1, 5, 2, 3), (33, 5, 64, 17)),
    "with a prefill": ((MAX_BATCHED_TOKENS + 4, 2, 1), (60, 40, 9)),
    "with a long row": ((2, 1, 3), (30, 5000, 12)),
    "a prefill between": ((1, MAX_BATCHED_TOKENS + 1, 2), (8, MAX_BATCHED_TOKENS + 1, 50)),
}


def layout(
    counts: tuple[int, ...], lengths: tuple[int, ...], scattered: bool
) -> tuple[PagedLayout, list[Segment]]:
    """Rows in a pool of noise where slots of no row are poison, their newest tokens yet to come."""
    each = [-(-length // PAGE_SIZE) for length in lengths]
    ids = list(range(1, sum(each) + 1))
    if scattered:
        ids = ids[::-1]
    cache = KvCache([LayerShape(KV_HEADS, DIM)], sum(each), torch.float32, CPU)
    cache.pool(0).fill_(torch.nan)
    segments, slots, start = [], [], 0
    for count, length, pages in zip(counts, lengths, each, strict=True):
        own, ids = ids[:pages], ids[pages:]
        held = [slot_index(own, position) for position in range(length)]
        cache.pool(0)[held] = torch.randn(length, 2 * KV_HEADS, DIM)
        segments.append(Segment(start, start + count, length, slot_spans(own, length)))
        slots += held[length - count :]
        start += count
    return PagedLayout(cache, torch.tensor(slots), segments), segments


@pytest.mark.parametrize("scattered", [False, True], ids=["adjacent", "scattered"])
@pytest.mark.parametrize(
    "rule",
    [PLAIN, AttentionParams(0.2, 6, None, None), AttentionParams(0.2, None, None, None, 7)],
    ids=["all", "window", "chunk"],
)
@pytest.mark.parametrize(("counts", "lengths"), CASES.values(), ids=CASES)
def test_a_crowd_attends_as_its_rows_do(
    counts: tuple[int, ...], lengths: tuple[int, ...], rule: AttentionParams, scattered: bool
) -> None:
    torch.manual_seed(0)
    together, segments = layout(counts, lengths, scattered)
    query, fresh = torch.randn(sum(counts), HEADS, DIM), torch.randn(sum(counts), 4, DIM)
    with patch.object(PaddedRows, "attend", autospec=True, side_effect=PaddedRows.attend) as crowd:
        found = together.attend_layer(0, fresh, query, rule)
        assert crowd.call_count == 1
        alone = PagedLayout(together.cache, together.slots, segments)
        with patch.object(paged_layout, "fits_padded_batch", return_value=False):
            wanted = alone.attend_layer(0, fresh, query, rule)
        assert crowd.call_count == 1
    assert (found - wanted).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("counts", "lengths", "rule"),
    [
        ((3,), (20,), PLAIN),
        ((MAX_BATCHED_TOKENS + 1, MAX_BATCHED_TOKENS + 1), (40, 40), PLAIN),
        ((1, 1), (5000, 5000), PLAIN),
        ((1, 1), (20, 20), AttentionParams(0.2, None, 20.0, None)),
        ((1, 1), (20, 20), AttentionParams(0.2, None, None, torch.ones(HEADS))),
    ],
    ids=["one row", "prefills", "long rows", "soft cap", "sinks"],
)
def test_others_attend_alone(
    counts: tuple[int, ...], lengths: tuple[int, ...], rule: AttentionParams
) -> None:
    paged, _ = layout(counts, lengths, scattered=False)
    query, fresh = torch.randn(sum(counts), HEADS, DIM), torch.randn(sum(counts), 4, DIM)
    with patch.object(PaddedRows, "attend") as crowd:
        paged.attend_layer(0, fresh, query, rule)
    assert not crowd.called
