"""MPT: multi-head attention with ALiBi and, in some models, clipped projections."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor

from shard.attention.interface import attend_heads, current_positions
from shard.attention.sdpa_row import AttentionParams
from shard.model.attention_adapters.adapter import AttentionAdapter
from shard.model.attention_adapters.alibi import fold_key_bias


def attend_mpt(part: Any, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
    """`MptAttention.forward` over paged keys."""
    fused = part.Wqkv(hidden_states)
    if part.clip_qkv:
        fused = fused.clamp(min=-part.clip_qkv, max=part.clip_qkv)
    heads = fused.view(*fused.shape[:2], 3, part.n_heads, part.head_dim)
    query, key, value = (each.transpose(1, 2) for each in heads.unbind(2))
    positions, scale = current_positions(), part.softmax_scale
    bias = _slopes(part.n_heads, positions.device)[:, None] * positions
    query, key = fold_key_bias(query, key, bias, scale)
    params = AttentionParams(scale, None, None, None)
    return part.out_proj(attend_heads(part.layer_idx, query, key, value, params).flatten(2)), None


@lru_cache(maxsize=8)
def _slopes(heads: int, device: torch.device) -> Tensor:
    """The slope of each head, float32 [H]: what the bias of the last of two keys exceeds by."""
    biases: Tensor = build_mpt_alibi_tensor(heads, 2, device=device)
    return -biases[:, 0, 0]


def _with_mask(positions: Tensor) -> dict[str, Any]:
    """The model takes no positions, but converts a mask, which its attention does not use."""
    return {"attention_mask": torch.zeros(1, 1, 1, 1, device=positions.device)}


ADAPTER = AttentionAdapter(MptAttention, attend_mpt, _with_mask)
