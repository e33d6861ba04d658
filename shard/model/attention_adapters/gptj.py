"""GPT-J: multi-head attention with a rotary embedding of pairs, in the module's own layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.gptj.modeling_gptj import GPTJAttention, apply_rotary_pos_emb

from shard.attention.interface import attend_heads, current_positions
from shard.attention.sdpa_row import AttentionParams
from shard.model.attention_adapters.adapter import AttentionAdapter


def attend_gptj(part: Any, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
    """`GPTJAttention.forward` over paged keys."""
    shape = (*hidden_states.shape[:-1], -1, part.head_dim)
    query, key = (
        _rotate(part, projection(hidden_states).view(shape)).transpose(1, 2)
        for projection in (part.q_proj, part.k_proj)
    )
    value = part.v_proj(hidden_states).view(shape).transpose(1, 2)
    params = AttentionParams(part.head_dim**-0.5, None, None, None)
    return part.out_proj(attend_heads(part.layer_idx, query, key, value, params).flatten(2)), None


def _rotate(part: Any, heads: Tensor) -> Tensor:
    """Rotate the first `rotary_dim` elements of `heads` [1, T, H, D], or all."""
    size = part.rotary_dim or part.head_dim
    table: Tensor = part.embed_positions[current_positions()][None].to(heads.dtype)
    sin, cos = table.chunk(2, dim=-1)
    rotated = apply_rotary_pos_emb(heads[..., :size], sin, cos)
    return torch.cat((rotated, heads[..., size:]), dim=-1)


ADAPTER = AttentionAdapter(GPTJAttention, attend_gptj)
