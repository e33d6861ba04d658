"""Positions beyond those that a model was trained for, by scaling its rotary embedding.

`linear` divides every position by the factor. `dynamic` raises the base of the frequencies with the
length (dynamic NTK). transformers takes the length of the whole forward pass, so that one long row
would change the keys of all others: here it is the longest length that is served, for every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shard.config import ShardConfig
from shard.errors import StartupError


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How the positions of a model are scaled: `linear` or `dynamic`."""

    kind: str
    factor: float

    @classmethod
    def from_config(cls, config: ShardConfig) -> RopeScaling | None:
        """The scaling of the target model, by TGI's defaults; None to leave the model as it is."""
        if config.rope_scaling is None and config.rope_factor is None:
            return None
        return cls(config.rope_scaling or "linear", config.rope_factor or 1.0)


def scale_positions(config: Any, name: str, scaling: RopeScaling) -> None:
    """Change `config`, of architecture `name`, so that its positions grow by the factor.

    Raises StartupError(2) for a model that has no rotary embedding of type `default`.
    """
    text = config.get_text_config()
    _refuse_other_embeddings(text, name)
    rope = text.rope_parameters
    if scaling.kind == "linear":
        text.rope_parameters = {**rope, "rope_type": "linear", "factor": scaling.factor}
    else:
        theta = _dynamic_base(text, rope, scaling.factor)
        text.rope_parameters = {**rope, "rope_theta": theta}
    text.max_position_embeddings = int(text.max_position_embeddings * scaling.factor)


def _refuse_other_embeddings(text: Any, name: str) -> None:
    rope = getattr(text, "rope_parameters", None)
    if not rope or getattr(text, "alibi", False):
        raise StartupError(2, f"`rope_scaling`: {name} has no rotary embedding")
    if (kind := rope.get("rope_type", "one per type of layer")) != "default":
        raise StartupError(
            2, f"`rope_scaling`: the rotary embedding of {name} is not plain, but of type {kind}"
        )


def _dynamic_base(text: Any, rope: dict[str, Any], factor: float) -> float:
    """The base of the frequencies at the longest length, which is `factor` times the trained one.

    Source: `_compute_dynamic_ntk_parameters` of transformers.
    """
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rotated = int(head * rope.get("partial_rotary_factor", 1.0))
    growth: float = (factor * factor - (factor - 1)) ** (rotated / (rotated - 2))
    return float(rope["rope_theta"] * growth)
