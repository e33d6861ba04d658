"""Llama 4: attention within chunks of a row, and layers without a rotary embedding.

transformers calls the attention interface, but passes chunks in the mask only, and scales queries
by their index in the input, where they must be scaled by their position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama4.modeling_llama4 import Llama4TextAttention, apply_rotary_emb

from shard.attention.interface import attend_heads, current_positions
from shard.attention.sdpa_row import AttentionParams
from shard.model.attention_adapters.adapter import AttentionAdapter

CHUNKED = "chunked_attention"
"""A value of `layer_types`."""


def attend_llama4(
    part: Any, hidden_states: Tensor, position_embeddings: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """`Llama4TextAttention.forward` over paged keys."""
    shape = (*hidden_states.shape[:-1], -1, part.head_dim)
    query, key, value = (
        projection(hidden_states).view(shape)
        for projection in (part.q_proj, part.k_proj, part.v_proj)
    )
    if part.use_rope:
        query, key = apply_rotary_emb(query, key, position_embeddings)
        if part.config.use_qk_norm:
            query, key = part.qk_norm(query), part.qk_norm(key)
    elif part.attn_temperature_tuning:
        query = (query * _temperatures(part)).to(query.dtype)
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    out = attend_heads(part.layer_idx, query, key, value, _attention_params(part))
    return part.o_proj(out.flatten(2)), None


def _temperatures(part: Any) -> Tensor:
    """Factors of the queries, float32 [1, T, 1, 1]; see arXiv:2501.19399."""
    steps = torch.floor((current_positions().float() + 1.0) / part.floor_scale)
    factors: Tensor = torch.log1p(steps) * part.attn_scale + 1.0
    return factors[None, :, None, None]


def _attention_params(part: Any) -> AttentionParams:
    chunked = part.config.layer_types[part.layer_idx] == CHUNKED
    chunk = part.config.attention_chunk_size if chunked else None
    return AttentionParams(part.scaling, None, None, None, chunk)


ADAPTER = AttentionAdapter(Llama4TextAttention, attend_llama4, layer_types=frozenset((CHUNKED,)))
