"""ALiBi (Press et al. 2022, arXiv:2108.12409) as a part of the keys, so that every kernel has it.

ALiBi adds `slope * position of the key` to the scaled scores of a head. Softmax ignores what is
equal for all keys of a query, so that the key's position alone suffices. The bias becomes
additional elements of the key, and each query has a constant there: their product is the bias, and
attention is plain scaled dot-product attention again. Only keys of a single head can hold a bias.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_QUERY_VALUE = 64.0
"""The constant in queries; larger than 1, so that the keys' elements fit float16."""
_ALIGNMENT = 8
"""Heads are padded to multiples of this size, which kernels prefer."""
_ROUNDINGS = {torch.float32: 1, torch.float16: 3, torch.bfloat16: 3}
"""Elements whose sum has the precision of float32."""


def fold_key_bias(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Queries and keys whose products, times `scale`, contain `bias` [H, T] of each key.

    `query` and `key` are [1, H, T, D]; those that are returned are [1, H, T, D'] with a larger D'.
    """
    columns = _rounded_parts(bias.float() / (scale * _QUERY_VALUE), key.dtype)
    size = key.shape[-1] + columns.shape[-1]
    padding = -size % _ALIGNMENT
    constant = query.new_full((*query.shape[:-1], columns.shape[-1]), _QUERY_VALUE)
    return (
        pad(torch.cat((query, constant), -1), (0, padding)),
        pad(torch.cat((key, columns[None]), -1), (0, padding)),
    )


def _rounded_parts(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of `dtype` [..., N] whose sum over the last dimension is float32 `values` [...]."""
    parts = []
    for _ in range(_ROUNDINGS[dtype]):
        parts.append(values.to(dtype))
        values = values - parts[-1].float()
    return torch.stack(parts, -1)
