"""Attention of one row's newest tokens over its keys and values, by SDPA or written out.

It knows a row as tensors: no pages, no layout of a Step. What differs between layers is in
`AttentionParams`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softmax

from shard.attention.visibility import EVERY_KEY, Visibility
from shard.bounded_cache import BoundedCache

_MAX_CACHED_MASK_TOKENS = 16
"""Masks of up to this many tokens are cached: those of verifications, which recur."""
_MIN_CACHED_MASK_LENGTH = 256
"""Minimum length of a cached mask."""
_MAX_CACHED_MASK_BYTES = 64 << 20
"""Maximum size of the masks that are cached; a larger one is built each time."""
_MaskKey = tuple[int, int, Visibility, int, torch.dtype, torch.device]
_masks = BoundedCache[_MaskKey, Tensor](_MAX_CACHED_MASK_BYTES, lambda _, mask: mask.nbytes)


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """How one layer attends."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None
    chunk: int | None = None
    """Size of the chunks of a row that attend only to themselves; None: the row is one."""

    @property
    def visibility(self) -> Visibility:
        """Which tokens of its row a token sees."""
        return Visibility(self.window, self.chunk)

    @property
    def is_plain(self) -> bool:
        """Whether it is softmax of scaled scores and nothing else."""
        return self.softcap is None and self.sinks is None


def attend_row(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, params: AttentionParams
) -> Tensor:
    """One row: its n newest tokens attend to L tokens under the additive `mask`.

    `query` [n, H, D], `keys` and `values` [Hkv, L, D]; returns [n, H, D]. The H / Hkv query heads
    of one key head are folded into its query rows, so keys are never repeated, and `mask` is
    [n * H / Hkv, L].
    """
    folded = _fold_heads(query, keys.shape[0])
    if params.is_plain:
        out = scaled_dot_product_attention(
            folded[None], keys[None], values[None], attn_mask=mask, scale=params.scale
        )[0]
    else:
        out = _attend_explicitly(folded, keys, values, mask, params)
    return _unfold_heads(out, query)


def attend_spans(
    query: Tensor,
    pieces: Sequence[tuple[Tensor, Tensor]],
    mask: Tensor | None,
    params: AttentionParams,
) -> Tensor:
    """The same over keys and values in several `pieces`, without a copy that joins them; CPU only.

    Each piece is attended to separately. The results are averaged with weights from the logarithms
    of their sums of exponentials (flash decoding: Dao et al. 2023). Every token must see at least
    one key of each piece, and `params` must be plain.
    """
    folded = _fold_heads(query, pieces[0][0].shape[0])[None]
    outs, sums, at = [], [], 0
    for keys, values in pieces:
        stop = at + keys.shape[1]
        part = None if mask is None else mask[None, None, :, at:stop]
        out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            folded, keys[None], values[None], 0.0, False, attn_mask=part, scale=params.scale
        )
        outs.append(out[0])
        sums.append(total[0])
        at = stop
    shares = softmax(torch.stack(sums), 0)[..., None]
    return _unfold_heads((torch.stack(outs) * shares).sum(0).to(query.dtype), query)


def _unfold_heads(out: Tensor, query: Tensor) -> Tensor:
    """The inverse of `_fold_heads`; the result has the shape of `query`."""
    count, heads, dim = query.shape
    if count == 1:
        return out.reshape(1, heads, dim)
    return out.view(len(out), count, -1, dim).transpose(0, 1).reshape(count, heads, dim)


def _fold_heads(query: Tensor, kv_heads: int) -> Tensor:
    """From [n, H, D] to [Hkv, n * H / Hkv, D]; a single token's heads need no copy."""
    count, heads, dim = query.shape
    if count == 1:
        return query.reshape(kv_heads, -1, dim)
    parts = query.reshape(count, kv_heads, heads // kv_heads, dim).transpose(0, 1)
    return parts.reshape(kv_heads, -1, dim)


def causal_mask(
    count: int, length: int, visibility: Visibility, group: int, like: Tensor
) -> Tensor:
    """Additive [count * group, length]: causal, aligned to the bottom right.

    The first key is the first of a chunk. Masks of a few tokens are views of the right end of a
    longer one that is cached, which has no chunks.
    """
    if visibility.chunk is not None and length <= visibility.chunk:
        visibility = EVERY_KEY
    if count > _MAX_CACHED_MASK_TOKENS or visibility.chunk is not None:
        return _build_mask(count, length, visibility, group, like.dtype, like.device)
    cached_length = max(_MIN_CACHED_MASK_LENGTH, 1 << (length - 1).bit_length())
    key = (count, cached_length, visibility, group, like.dtype, like.device)
    return _masks.get_or_build(key, partial(_build_mask, *key))[:, -length:]


def _build_mask(
    count: int,
    length: int,
    visibility: Visibility,
    group: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    queries = torch.arange(length - count, length, device=device)[:, None]
    keys = torch.arange(length, device=device)[None]
    zero = torch.zeros((), dtype=dtype, device=device)
    hidden = visibility.hides(queries, keys)
    return torch.where(hidden, float("-inf"), zero).repeat_interleave(group, 0)


def _attend_explicitly(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, params: AttentionParams
) -> Tensor:
    """Attention with soft-capped scores (Gemma 2) or learned sinks (gpt-oss), in float32."""
    scores = (query @ keys.transpose(1, 2)).float() * params.scale  # [Hkv, n * group, L]
    if params.softcap is not None:
        scores = torch.tanh(scores / params.softcap) * params.softcap
    if mask is not None:
        scores = scores + mask
    if params.sinks is not None:
        scores = torch.cat((scores, _sink_column(params.sinks, scores)), dim=-1)
    weights = softmax(scores, dim=-1)[..., : keys.shape[1]]
    return weights.to(values.dtype) @ values


def _sink_column(sinks: Tensor, scores: Tensor) -> Tensor:
    """One logit per query head, laid out as the folded query rows: [Hkv, n * group, 1]."""
    kv_heads, rows, _ = scores.shape
    per_head = sinks.float().reshape(kv_heads, -1)  # [Hkv, group]
    return per_head.repeat(1, rows // per_head.shape[1])[..., None]
