"""BLOOM: multi-head attention with ALiBi; the module also adds the residual."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor

from shard.attention.interface import attend_heads, current_positions
from shard.attention.sdpa_row import AttentionParams
from shard.model.attention_adapters.adapter import AttentionAdapter
from shard.model.attention_adapters.alibi import fold_key_bias


def attend_bloom(
    part: Any, hidden_states: Tensor, residual: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """`BloomAttention.forward` over paged keys."""
    fused = part.query_key_value(hidden_states)
    heads = fused.view(*fused.shape[:2], part.num_heads, 3, part.head_dim)
    query, key, value = (each.transpose(1, 2) for each in heads.unbind(3))
    positions, scale = current_positions(), part.head_dim**-0.5
    bias = _slopes(part.num_heads, positions.device)[:, None] * positions
    query, key = fold_key_bias(query, key, bias, scale)
    params = AttentionParams(scale, None, None, None)
    out = attend_heads(part.layer_idx, query, key, value, params).flatten(2)
    return residual + part.dense(out), None


@lru_cache(maxsize=8)
def _slopes(heads: int, device: torch.device) -> Tensor:
    """The slope of each head, float32 [H]: the bias of a second key."""
    two = torch.ones(1, 2, dtype=torch.int64, device=device)
    return build_alibi_tensor(two, heads, torch.float32)[:, 0, 1]


def _no_positions(_: Tensor) -> dict[str, Any]:
    """The model takes no positions: only its attention depends on them."""
    return {}


ADAPTER = AttentionAdapter(BloomAttention, attend_bloom, _no_positions)
