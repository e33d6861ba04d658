"""Shapes that a model is inflated to, and the configuration that such a model has.

Rule: decides sizes only; no tensor is touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shard.errors import StartupError


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama model, but for its vocabulary."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share one key and value head."""
        return self.heads // self.kv_heads


SHAPES = {
    "tiny": Shape(hidden=384, intermediate=768, layers=8, heads=16, kv_heads=4, head_dim=64),
    "1b": Shape(hidden=2048, intermediate=4096, layers=32, heads=32, kv_heads=8, head_dim=64),
    "8b": Shape(hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, head_dim=128),
}
"""`8b` is Llama 3's; `1b` is deeper and narrower than Llama 3.2's, which has 16 layers, fewer than
SmolLM2; `tiny` is for tests."""


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Return the shape of a model. Raises StartupError for what is not plain Llama."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    require(config["model_type"] == "llama", f"`{config['model_type']}` is not `llama`")
    require(config["hidden_act"] == "silu", f"`{config['hidden_act']}` is not `silu`")
    require(rope.get("rope_type", "default") == "default", "it has scaled rotary frequencies")
    heads = config["num_attention_heads"]
    return Shape(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
    )


def require_fits(small: Shape, large: Shape) -> None:
    """Raise StartupError unless a model of shape `small` can be inflated to `large`."""
    for name in ("hidden", "intermediate", "layers", "kv_heads", "group"):
        had, has = getattr(small, name), getattr(large, name)
        require(had <= has, f"its `{name}` is {had}, more than the {has} of the shape")
    multiple = large.head_dim % small.head_dim == 0
    require(multiple, f"{large.head_dim} is no multiple of its `head_dim`, {small.head_dim}")


def inflated_config(config: Mapping[str, Any], small: Shape, large: Shape) -> dict[str, Any]:
    """Return the configuration of the inflated model.

    RMSNorm adds eps to the mean over the width, which zeros make smaller; eps shrinks alike.
    """
    return {
        **config,
        "hidden_size": large.hidden,
        "intermediate_size": large.intermediate,
        "num_hidden_layers": large.layers,
        "num_attention_heads": large.heads,
        "num_key_value_heads": large.kv_heads,
        "head_dim": large.head_dim,
        "rms_norm_eps": config["rms_norm_eps"] * small.hidden / large.hidden,
    }


def require(condition: bool, reason: str) -> None:
    """Raise StartupError with `reason` unless `condition` holds."""
    if not condition:
        raise StartupError(4, f"the model cannot be inflated: {reason}")
