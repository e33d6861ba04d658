"""Attention over gathered pages is attention by its definition, as the kernel is."""

from __future__ import annotations

import pytest
import torch

from shard.attention.paged_torch import paged_attention
from tests.support.paged import TOLERANCE, AttentionCase, PagedPool

CASES = {
    "ragged": AttentionCase(counts=(1, 2, 3, 4, 5, 6), lengths=(16, 17, 3, 64, 65, 6)),
    "one key head": AttentionCase(heads=16, kv_heads=1, counts=(6, 1), lengths=(40, 9)),
    "bfloat16": AttentionCase(dtype=torch.bfloat16),
    "window": AttentionCase(window=20),
    "chunk": AttentionCase(chunk=48),
    "chunk of less than a page": AttentionCase(chunk=5),
    "softcap": AttentionCase(softcap=2.0),
    "sinks": AttentionCase(sinks=True),
    "window, softcap and sinks": AttentionCase(window=33, softcap=5.0, sinks=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gathered_pages_are_attended_to_exactly(case: AttentionCase) -> None:
    pool = PagedPool(case)
    found = pool._attend_with(paged_attention, pool.query, pool.pool)
    assert (found.float() - pool.reference()).abs().max() < TOLERANCE[case.dtype]


def test_rows_that_feed_nothing_get_nothing() -> None:
    pool = PagedPool(AttentionCase(counts=(2, 3), lengths=(40, 40)))
    pool.counts[1] = pool.lengths[1] = 0
    found = pool._attend_with(paged_attention, pool.query, pool.pool)
    assert torch.equal(
        found[:2], PagedPool(pool.case)._attend_with(paged_attention, pool.query, pool.pool)[:2]
    )
    assert not found[2:].any()
