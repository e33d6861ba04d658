"""Falcon: fused projections in groups of a key head, with a rotary embedding or ALiBi."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.models.falcon.modeling_falcon import (
    FalconAttention,
    apply_rotary_pos_emb,
    build_alibi_tensor,
)

from shard.attention.interface import attend_heads, current_positions
from shard.attention.sdpa_row import AttentionParams
from shard.model.attention_adapters.adapter import AttentionAdapter
from shard.model.attention_adapters.alibi import fold_key_bias


def attend_falcon(
    part: Any,
    hidden_states: Tensor,
    alibi: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`FalconAttention.forward` over paged keys; of `alibi` only the presence matters."""
    query, key, value = _split_heads(part, part.query_key_value(hidden_states))
    scale = part.head_dim**-0.5
    if alibi is not None:
        group = part.num_heads // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        query, key = fold_key_bias(query, key, _key_bias(part.num_heads) * scale, scale)
    elif position_embeddings is not None:
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    params = AttentionParams(scale, None, None, None)
    return part.dense(attend_heads(part.layer_idx, query, key, value, params).flatten(2)), None


def _split_heads(part: Any, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [1, H, T, D], keys and values [1, Hkv, T, D] of `fused` [1, T, (H + 2 * Hkv) * D].

    Each key head is stored behind its query heads, and its value behind it. This covers all three
    layouts of Falcon: one key head, one per query head, and groups.
    """
    grouped = part.new_decoder_architecture or part.multi_query
    kv_heads = part.num_kv_heads if grouped else part.num_heads
    heads = fused.view(*fused.shape[:2], kv_heads, -1, part.head_dim)
    query = heads[..., :-2, :].flatten(2, 3).transpose(1, 2)
    return query, heads[..., -2, :].transpose(1, 2), heads[..., -1, :].transpose(1, 2)


def _key_bias(heads: int) -> Tensor:
    """ALiBi of the tokens before scaling, float32 [H, T], rounded to bfloat16 as in training."""
    positions = current_positions()
    return (_slopes(heads, positions.device)[:, None] * positions).float()


@lru_cache(maxsize=8)
def _slopes(heads: int, device: torch.device) -> Tensor:
    """The slope of each head, bfloat16 [H]: the bias of a second key."""
    two = torch.ones(1, 2, dtype=torch.int64, device=device)
    return build_alibi_tensor(two, heads, torch.bfloat16)[:, 0, 1]


ADAPTER = AttentionAdapter(FalconAttention, attend_falcon, implementation="sdpa")
"""With `eager`, transformers adds ALiBi twice."""
