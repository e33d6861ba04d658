"""What one token's keys and values consist of, according to `config.json` alone.

Only the standard library is imported, since the launcher estimates memory with it. A running rank
measures the shapes instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shard.errors import StartupError
from shard.loading.checkpoint import HEAD_COUNT_KEYS, text_config

_LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN_SIZE_KEYS = ("hidden_size", "n_embd", "d_model", "n_embed")
_ALIBI_MODEL_TYPES = ("bloom", "mpt")
_ALIBI_ALIGNMENT = 8
"""Heads with a bias in their keys are padded to a multiple of this size."""


@dataclass(frozen=True, slots=True)
class AttentionSizes:
    """The sizes of a model's KV cache."""

    layers: int
    """Layers of attention."""
    kv_heads: int
    head_dim: int
    """Elements of a key, and of a value; if they differ, the larger number."""
    convolved: int = 0
    """Elements per token that all layers of convolution store together."""


def attention_sizes(config: dict[str, Any]) -> AttentionSizes:
    """The sizes of the model that `config` describes. Raises StartupError(4) if one is missing."""
    text = text_config(config)
    layers, heads = _first(text, _LAYER_COUNT_KEYS), _first(text, HEAD_COUNT_KEYS)
    if "kv_lora_rank" in text:  # multi-head latent attention
        key_size = text["qk_nope_head_dim"] + text["qk_rope_head_dim"]
        return AttentionSizes(layers, heads, max(key_size, text["v_head_dim"]))
    size = text.get("head_dim") or _first(text, _HIDDEN_SIZE_KEYS) // heads
    if text.get("alibi") or text.get("model_type") in _ALIBI_MODEL_TYPES:
        return AttentionSizes(layers, heads, (size // _ALIBI_ALIGNMENT + 1) * _ALIBI_ALIGNMENT)
    convolutions = (text.get("layer_types") or []).count("conv")
    convolved = convolutions * _first(text, _HIDDEN_SIZE_KEYS) if convolutions else 0
    return AttentionSizes(layers - convolutions, _kv_heads(text, heads), size, convolved)


def _kv_heads(text: dict[str, Any], heads: int) -> int:
    """Number of key/value heads; Falcon's first models have one unless they say otherwise."""
    if text.get("model_type") == "falcon" and not text.get("new_decoder_architecture"):
        return 1 if text.get("multi_query", True) else heads
    return int(text.get("num_key_value_heads") or text.get("num_kv_heads") or heads)


def _first(text: dict[str, Any], keys: tuple[str, ...]) -> int:
    """The value of the first of `keys` in `text`."""
    value = next((text[key] for key in keys if text.get(key)), None)
    if not isinstance(value, int):
        raise StartupError(4, f"config.json lacks `{keys[0]}`; download it again")
    return value
