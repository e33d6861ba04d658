"""Models of every architecture that has a fused forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from shard.attention.interface import IMPLEMENTATION
from shard.attention.kv_cache import LayerShape
from shard.model.packed_model import layer_shapes, probe_attention
from tests.support import tiny

CPU = torch.device("cpu")
FUSED = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
}


def build(name: str, **changes: Any) -> tuple[nn.Module, tuple[LayerShape, ...]]:
    """A model with random weights, biases and norms, and the shapes of its cache."""
    torch.manual_seed(5)
    config = tiny.CONFIGS[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    module = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    module = module.eval().requires_grad_(False)
    return module, shapes_of(module, FUSED.get(name, name))


def shapes_of(module: nn.Module, name: str) -> tuple[LayerShape, ...]:
    """The shapes of the cache of `module`."""
    return layer_shapes(module, name, probe_attention(module, name, CPU))
