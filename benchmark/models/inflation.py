"""Places the weights of a small Llama model within a larger one that computes the same function.

Rule: every added weight is zero. Width: RMSNorm's mean over the padded width is smaller by
small/large, so its weights shrink by the root of that. Depth: added layers add zero to the residual
stream. Heads: an added head's output meets zeros, and each query head stays with its key head. A
head that is k times as wide has the rotary frequencies of the small one at every k-th pair; as
scores are divided by the root of the width, queries grow by the root of k.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.models.shapes import Shape, require

AXES = {
    "embed_tokens": ("vocabulary", "hidden"),
    "lm_head": ("vocabulary", "hidden"),
    "q_proj": ("queries", "hidden"),
    "k_proj": ("keys", "hidden"),
    "v_proj": ("keys", "hidden"),
    "o_proj": ("hidden", "queries"),
    "gate_proj": ("intermediate", "hidden"),
    "up_proj": ("intermediate", "hidden"),
    "down_proj": ("hidden", "intermediate"),
    "input_layernorm": ("hidden",),
    "post_attention_layernorm": ("hidden",),
    "norm": ("hidden",),
}
"""What the rows and columns of each weight stand for."""
_WEIGHT = re.compile(r"(?:.*\.)?(\w+)\.weight")


@dataclass(frozen=True, slots=True)
class Inflation:
    """Maps weights of shape `small` to weights of shape `large`."""

    small: Shape
    large: Shape
    vocabulary: int

    def inflate(self, name: str, weight: Tensor) -> Tensor:
        """Return the large weight that contains `weight`. Raises StartupError if it is unknown."""
        axes = self._axes(name)
        result = self.zeros(name, weight.dtype)
        scaled = (weight.double() * self._scale(name)).to(weight.dtype)
        result[torch.meshgrid(*map(self._positions, axes), indexing="ij")] = scaled
        return result

    def zeros(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return the weight of that name in an added layer."""
        return torch.zeros([self._size(axis) for axis in self._axes(name)], dtype=dtype)

    def _axes(self, name: str) -> tuple[str, ...]:
        match = _WEIGHT.fullmatch(name)
        axes = AXES.get(match[1]) if match else None
        require(axes is not None, f"unknown weight `{name}`")
        return axes or ()

    def _scale(self, name: str) -> float:
        if "norm" in name:
            return math.sqrt(self.small.hidden / self.large.hidden)
        if "q_proj" in name:
            return math.sqrt(self.large.head_dim / self.small.head_dim)
        return 1.0

    def _size(self, axis: str) -> int:
        large = self.large
        return {
            "vocabulary": self.vocabulary,
            "hidden": large.hidden,
            "intermediate": large.intermediate,
            "queries": large.heads * large.head_dim,
            "keys": large.kv_heads * large.head_dim,
        }[axis]

    def _positions(self, axis: str) -> Tensor:
        """Return where the small model's rows or columns stand in the large one's."""
        small = self.small
        if axis == "queries":
            return self._head_positions(small.group, self.large.group)
        if axis == "keys":
            return self._head_positions(1, 1)
        sizes = {"vocabulary": self.vocabulary, "hidden": small.hidden}
        return torch.arange(sizes.get(axis, small.intermediate))

    def _head_positions(self, group: int, large_group: int) -> Tensor:
        """Return the positions of all elements of `group` heads per key head."""
        first, member = torch.arange(self.small.kv_heads), torch.arange(group)
        heads = first[:, None] * large_group + member
        within = torch.arange(self.small.head_dim) * (self.large.head_dim // self.small.head_dim)
        return (heads.flatten()[:, None] * self.large.head_dim + within).flatten()
