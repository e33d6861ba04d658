"""The weights of a Llama layer as the products of a packed Step: fused, and with heads interleaved.

Queries, keys and values are one product, gate and up another. The two halves that rotary embedding
mixes are interleaved in the weights of queries and keys, which leaves their products unchanged and
makes the rotation one complex product. Multiplies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

LinearWeights = tuple[Tensor, Tensor | None]
"""Weight [output features, input features], and bias."""


def linear_weights(part: nn.Linear) -> LinearWeights:
    return part.weight, part.bias


def qkv_weights(layer: Any) -> LinearWeights:
    """Queries, keys and values as one product, the first two interleaved."""
    attention = layer.self_attn
    rotated = [
        _interleave(part, attention.head_dim) for part in (attention.q_proj, attention.k_proj)
    ]
    return _concatenate([*rotated, linear_weights(attention.v_proj)])


def gate_up_weights(layer: Any) -> LinearWeights:
    return _concatenate([linear_weights(layer.mlp.gate_proj), linear_weights(layer.mlp.up_proj)])


def layer_products(layer: Any) -> Iterator[Tensor]:
    """The weights of all products of a layer, in the order of its forward."""
    yield qkv_weights(layer)[0]
    yield layer.self_attn.o_proj.weight
    yield gate_up_weights(layer)[0]
    yield layer.mlp.down_proj.weight


def _interleave(part: nn.Linear, dim: int) -> LinearWeights:
    def mixed(rows: Tensor) -> Tensor:
        return rows.view(-1, dim, *rows.shape[1:])[:, interleaved_order(dim)].reshape(rows.shape)

    return mixed(part.weight), None if part.bias is None else mixed(part.bias)


def interleaved_order(dim: int) -> Tensor:
    """Index of each element of an interleaved head in a head of two halves."""
    return torch.arange(dim).view(2, -1).t().flatten()


def _concatenate(parts: list[LinearWeights]) -> LinearWeights:
    """One product for `parts`, whose outputs it gives side by side."""
    weight = torch.cat([rows for rows, _ in parts])
    if all(bias is None for _, bias in parts):
        return weight, None
    filled = [rows.new_zeros(len(rows)) if bias is None else bias for rows, bias in parts]
    return weight, torch.cat(filled)
