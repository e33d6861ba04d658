"""The paged kernel's contract in plain tensor operations, for devices without Triton and for tests.

Every row's pages are gathered and attended to under a mask, so nothing is read back by the host
and a round can run ahead of it. It costs a copy of the keys per layer: where the host knows the
lengths, `attention.PagedLayout` is faster.
"""

from __future__ import annotations

import torch
from torch import Tensor


def paged_attention(
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
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> None:
    """As `paged_triton.paged_attention`; `out` must hold zeros. `splits` has no meaning here."""
    lane = torch.arange(width, device=query.device)
    places = (starts[:, None] + lane).long()  # [R, W]
    asked = lane < counts[:, None]
    places = torch.where(asked, places, 0)
    keys, values = _gather_kv(pool, table, lengths, page)
    own = (lengths - counts)[:, None] + lane
    position = torch.arange(keys.shape[1], device=query.device)
    seen = (position <= own[..., None]) & (position < lengths[:, None, None])
    if window is not None:
        seen &= position > own[..., None] - window
    weights = _attention_weights(query[places], keys, scale, softcap, seen, sinks)
    told = torch.einsum("rkgwl,rlkd->rwkgd", weights, values.float()).flatten(2, 3)
    told = told.masked_fill(~asked[..., None, None], 0.0).to(out.dtype)
    out.index_add_(0, places.flatten(), told.flatten(0, 1))


def _gather_kv(pool: Tensor, table: Tensor, lengths: Tensor, page: int) -> tuple[Tensor, Tensor]:
    """Keys and values [R, L, key heads, D] of all pages in `table`; zeros beyond the lengths."""
    offsets = torch.arange(page, device=pool.device)
    slots = (table.long()[..., None] * page + offsets).flatten(1)
    beyond = torch.arange(slots.shape[1], device=pool.device) >= lengths[:, None]
    keys, values = pool[slots].masked_fill(beyond[..., None, None], 0.0).chunk(2, 2)
    return keys, values


def _attention_weights(
    query: Tensor,
    keys: Tensor,
    scale: float,
    softcap: float | None,
    seen: Tensor,
    sinks: Tensor | None,
) -> Tensor:
    """What `query` [R, W, H, D] gives to each of `keys`: float32 [R, key heads, group, W, L].

    `seen` is bool [R, W, L]. A query that sees nothing has weights without meaning.
    """
    grouped = query.view(*query.shape[:2], keys.shape[2], -1, query.shape[3]).float()
    scores = torch.einsum("rwkgd,rlkd->rkgwl", grouped, keys.float()) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.float().view(1, keys.shape[2], -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), -1).softmax(-1)[..., :-1]
