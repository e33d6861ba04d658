"""The weights of a Llama layer as the products of a packed Step: fused, and with heads interleaved.

Queries, keys and values are one product, gate and up another. The two halves that rotary embedding
mixes are interleaved in the weights of queries and keys, which leaves their products unchanged and
makes the rotation one complex product. Multiplies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

LinearWeights = tuple[Tensor, Tensor | None]
"""Weight [output features, input features], and bias."""


@dataclass(frozen=True, slots=True)
class WeightPart:
    """The outputs of one projection within a product."""

    name: str
    """Of the projection, in its layer."""
    outputs: int
    order: Tensor | None = None
    """Index in the projection of each of the outputs, if they are in another order."""


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


def qkv_parts(layer: Any) -> list[WeightPart]:
    """The parts of `qkv_weights`."""
    attention = layer.self_attn
    parts = [_part(attention, "self_attn", name) for name in ("q_proj", "k_proj", "v_proj")]
    dim = attention.head_dim
    orders = [torch.arange(part.outputs).view(-1, dim)[:, interleaved_order(dim)] for part in parts]
    rotated = [
        replace(part, order=order.flatten())
        for part, order in zip(parts[:2], orders[:2], strict=True)
    ]
    return [*rotated, parts[2]]


def o_parts(layer: Any) -> list[WeightPart]:
    """The product of attention's output."""
    return [_part(layer.self_attn, "self_attn", "o_proj")]


def gate_up_parts(layer: Any) -> list[WeightPart]:
    """The parts of `gate_up_weights`."""
    return [_part(layer.mlp, "mlp", name) for name in ("gate_proj", "up_proj")]


def down_parts(layer: Any) -> list[WeightPart]:
    """The product of the MLP's output."""
    return [_part(layer.mlp, "mlp", "down_proj")]


def _part(block: Any, path: str, name: str) -> WeightPart:
    return WeightPart(f"{path}.{name}", len(getattr(block, name).weight))


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
