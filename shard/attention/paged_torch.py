"""The paged kernel's contract in plain tensor operations, for devices without Triton and for tests.

The pages of every row are gathered and attended to under a mask, so the host reads nothing back and
a round can run ahead of it. It costs a copy of the keys per layer: where the host knows the
lengths, `interface.PagedLayout` is faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shard.attention.visibility import EVERY_KEY, Visibility


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
    visibility: Visibility = EVERY_KEY,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> None:
    """As `paged_triton.paged_attention`; `out` must hold zeros. `splits` is ignored."""
    lanes = torch.arange(width, device=query.device)
    used = lanes < counts[:, None]
    tokens = torch.where(used, (starts[:, None] + lanes).long(), 0)  # [R, W]
    keys, values = _gather_kv(pool, table, lengths, page)
    seen = _visible((lengths - counts)[:, None] + lanes, lengths, keys.shape[1], visibility)
    weights = _attention_weights(query[tokens], keys, scale, softcap, seen, sinks)
    attended = torch.einsum("rkgwl,rlkd->rwkgd", weights, values.float()).flatten(2, 3)
    attended = attended.masked_fill(~used[..., None, None], 0.0).to(out.dtype)
    out.index_add_(0, tokens.flatten(), attended.flatten(0, 1))


def _visible(positions: Tensor, lengths: Tensor, size: int, visibility: Visibility) -> Tensor:
    """Which of `size` keys the queries at `positions` [R, W] see, bool [R, W, size]."""
    keys = torch.arange(size, device=positions.device)
    hidden = visibility.hides(positions[..., None], keys)
    return ~hidden & (keys < lengths[:, None, None])


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
    """Weights of `query` [R, W, H, D] on `keys`, float32 [R, key heads, group, W, L].

    `seen` is bool [R, W, L]. The weights of a query that sees nothing have no meaning.
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
