"""LFM2: short convolutions between layers of attention, over paged inputs.

A convolution of K taps reads the inputs of the last K positions. They are stored in pages by
position, as keys are, although only the last K - 1 will be read: so rejected drafts, shared
prefixes and preemption need nothing of their own. Attention uses transformers' interface.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv
from transformers.models.lfm2_moe.modeling_lfm2_moe import Lfm2MoeShortConv

from shard.attention.interface import recall_recent
from shard.model.attention_adapters.adapter import AttentionAdapter


def convolve(part: Any, hidden_states: Tensor, **_: Any) -> Tensor:
    """`Lfm2ShortConv.forward` over paged inputs."""
    input_gate, output_gate, values = part.in_proj(hidden_states).chunk(3, dim=-1)
    recent = recall_recent(part.layer_idx, input_gate * values, part.conv_kernel_size)
    mixed = torch.einsum("btkc,ck->btc", recent, part.conv.weight.squeeze(1))
    if part.conv.bias is not None:
        mixed = mixed + part.conv.bias
    output: Tensor = part.out_proj(output_gate * mixed)
    return output


_LAYER_TYPES = frozenset(("conv",))
ADAPTER = AttentionAdapter(Lfm2ShortConv, convolve, layer_types=_LAYER_TYPES)
MOE_ADAPTER = AttentionAdapter(Lfm2MoeShortConv, convolve, layer_types=_LAYER_TYPES)
