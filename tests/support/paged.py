"""A paged KV pool with rows in permuted pages, and a reference implementation of attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.visibility import Visibility

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
PAGE = 16


@dataclass(frozen=True)
class AttentionCase:
    """Arguments of the kernel: shapes, dtype and attention parameters."""

    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    dtype: torch.dtype = torch.float32
    counts: tuple[int, ...] = (1, 6, 3)
    lengths: tuple[int, ...] = (1, 150, 70)
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    sinks: bool = False
    splits: int = 3


class PagedPool:
    """Random rows of a case; the trash page and unowned pages hold NaN."""

    def __init__(self, case: AttentionCase) -> None:
        self.case = case
        rows = torch.tensor(case.counts, dtype=torch.int32)
        width = -(-max(case.lengths) // PAGE)
        order = torch.randperm(len(rows) * width, generator=torch.manual_seed(0)) + 1
        table = order.reshape(len(rows), width).int()
        starts = rows.cumsum(0, dtype=torch.int32) - rows
        slots = (len(order) + 1) * PAGE
        pool = torch.full((slots, 2 * case.kv_heads, case.dim), float("nan"))
        for pages, length in zip(table, case.lengths, strict=True):
            own = (pages.long()[:, None] * PAGE + torch.arange(PAGE)).flatten()[:length]
            pool[own] = torch.randn(length, 2 * case.kv_heads, case.dim)
        query = torch.randn(case.heads, int(rows.sum()), case.dim).transpose(0, 1)
        self.pool = pool.to(DEVICE, case.dtype)
        self.query = query.to(DEVICE, case.dtype)
        self.table, self.starts = table.to(DEVICE), starts.to(DEVICE)
        self.counts = rows.to(DEVICE)
        self.lengths = torch.tensor(case.lengths, dtype=torch.int32, device=DEVICE)
        self.sinks = torch.randn(case.heads).to(DEVICE) if case.sinks else None

    def kernel(self) -> Tensor:
        """Output of the kernel under test, [T, H, D]."""
        from shard.attention.paged_triton import paged_attention

        return self._attend_with(paged_attention, self.query, self.pool)

    def reference(self) -> Tensor:
        """Output of the reference in float32, [T, H, D]."""
        return self._attend_with(reference_attention, self.query.float(), self.pool.float())

    def _attend_with(self, attention: Callable[..., None], query: Tensor, pool: Tensor) -> Tensor:
        case = self.case
        out = torch.zeros(query.shape).to(query)
        attention(
            *(query, pool, self.table, self.starts, self.counts, self.lengths, out),
            page=PAGE,
            width=max(case.counts),
            splits=case.splits,
            scale=case.dim**-0.5,
            visibility=Visibility(case.window, case.chunk),
            softcap=case.softcap,
            sinks=self.sinks,
        )
        return out


def reference_attention(
    query: Tensor,
    pool: Tensor,
    table: Tensor,
    starts: Tensor,
    counts: Tensor,
    lengths: Tensor,
    out: Tensor,
    *,
    page: int,
    width: int,
    splits: int,
    scale: float,
    visibility: Visibility,
    softcap: float | None,
    sinks: Tensor | None,
) -> None:
    """Attention by its definition, row by row: what `paged_attention` must compute."""
    assert int(counts.max()) <= width
    offsets, group = torch.arange(page).to(table), 2 * query.shape[1] // pool.shape[1]
    for pages, start, count, length in zip(table, starts, counts, lengths, strict=True):
        slots = (pages[:, None] * page + offsets).flatten()[:length]
        keys, values = pool[slots].repeat_interleave(group, 1).chunk(2, 1)
        own = query[start : start + count]
        scores = torch.einsum("nhd,lhd->hnl", own, keys) * scale
        weights = _weights(scores, visibility, softcap, sinks)
        out[start : start + count] = torch.einsum("hnl,lhd->nhd", weights, values)


def _weights(
    scores: Tensor, visibility: Visibility, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    count, length = scores.shape[1:]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    own = torch.arange(length - count, length, device=scores.device)[:, None]
    seen = torch.arange(length, device=scores.device)[None]
    allowed = (seen <= own) & (seen > own - (visibility.window or length + 1))
    allowed &= seen // (visibility.chunk or length) == own // (visibility.chunk or length)
    scores = scores.masked_fill(~allowed, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks[:, None, None].expand(-1, count, 1)), -1)
    return scores.softmax(-1)[..., :length]


def max_difference(case: AttentionCase) -> float:
    """The largest difference between kernel and reference."""
    pool = PagedPool(case)
    return float((pool.kernel().float() - pool.reference()).abs().max())


RULES = {
    "window": AttentionCase(window=20),
    "window shorter than the new tokens": AttentionCase(window=2),
    "chunk": AttentionCase(chunk=48),
    "chunk of less than a page": AttentionCase(chunk=5),
    "softcap": AttentionCase(softcap=2.0),
    "sinks": AttentionCase(sinks=True),
    "window, softcap and sinks": AttentionCase(window=33, softcap=5.0, sinks=True),
}
