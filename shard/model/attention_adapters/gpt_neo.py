"""GPT-Neo: unscaled multi-head attention, in every other layer within a sliding window."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from shard.attention.interface import attend_heads
from shard.attention.sdpa_row import AttentionParams
from shard.model.attention_adapters.adapter import AttentionAdapter


def attend_gpt_neo(part: Any, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
    """`GPTNeoSelfAttention.forward` over paged keys."""
    shape = (*hidden_states.shape[:-1], -1, part.head_dim)
    query, key, value = (
        projection(hidden_states).view(shape).transpose(1, 2)
        for projection in (part.q_proj, part.k_proj, part.v_proj)
    )
    window = part.config.window_size if part.attention_type == "local" else None
    params = AttentionParams(1.0, window, None, None)
    return part.out_proj(attend_heads(part.layer_id, query, key, value, params).flatten(2)), None


ADAPTER = AttentionAdapter(GPTNeoSelfAttention, attend_gpt_neo)
