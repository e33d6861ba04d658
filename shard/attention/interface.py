"""Attention over the paged pool, registered with transformers as an attention implementation.

The model runs packed: all tokens of all rows of a Step in one sequence `[1, T]`, without a mask and
without transformers' cache. transformers calls `attend` once per layer, which stores the new keys
and values and lets every row attend to its own slots. The layout of the Step and the positions of
its tokens are passed through `_contexts`, since not every model forwards unknown arguments.
`attend` knows rows only as segments: no request, no sampling, no draft.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface

from shard.attention.kv_cache import LayerShape
from shard.attention.sdpa_row import AttentionParams

IMPLEMENTATION = "paged_rows"
"""The name under which transformers finds `attend`."""


class Layout(Protocol):
    """How one layer's tensors are attended to."""

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """Store `new_kv` [T, 2 * KV heads, D], keys before values; attend `query` [T, heads, D].

        Returns [T, heads, D].
        """

    def recall_layer(self, index: int, new_values: Tensor, count: int) -> Tensor:
        """Store `new_values` [T, 2, D]; return those of the last `count` positions of each token.

        Returns [T, count, 2, D], oldest first, with zeros before the first token of a row.
        """


class AttentionProbe:
    """The layout of the first forward at load: records every layer's shape, caches nothing.

    One for each forward: a layer that attends twice is refused, since its cache holds one set of
    keys and values.
    """

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.params: dict[int, AttentionParams] = {}
        self.group_sizes: dict[int, int] = {}
        """Query heads per key head."""

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """Record shape and parameters of layer `index`. Raises ValueError at its second call."""
        if index in self.shapes:
            raise ValueError(f"layer {index} attends more than once")
        self.shapes[index] = LayerShape(new_kv.shape[1] // 2, new_kv.shape[2])
        self.group_sizes[index] = 2 * query.shape[1] // new_kv.shape[1]
        self.params[index] = params
        return query

    def recall_layer(self, index: int, new_values: Tensor, count: int) -> Tensor:
        """Record the shape of layer `index`."""
        self.shapes[index] = LayerShape(new_values.shape[1] // 2, new_values.shape[2])
        return new_values[:, None].repeat_interleave(count, 1)


_contexts: list[tuple[Layout, Tensor]] = []


@contextmanager
def use_layout(layout: Layout, positions: Tensor) -> Iterator[None]:
    """Inside the block, models attend by `layout`, with their tokens at `positions` [1, T]."""
    _contexts.append((layout, positions))
    try:
        yield
    finally:
        _contexts.pop()


def current_positions() -> Tensor:
    """The positions of the tokens that attend, int64 [T], for models that are not given them."""
    return _contexts[-1][1][0]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, H, T, D] queries to [1, T, H, D].

    Raises ValueError if every token sees all others.
    """
    if not getattr(module, "is_causal", True):
        raise ValueError("it is not causal")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    params = AttentionParams(scale, sliding_window, softcap, s_aux)
    index = int(module.layer_idx)  # type: ignore[arg-type]
    return attend_heads(index, query, key, value, params), None


def attend_heads(
    index: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
) -> Tensor:
    """Store keys and values of layer `index`, and attend [1, H, T, D] queries to [1, T, H, Dv].

    `key` is [1, Hkv, T, D] and `value` [1, Hkv, T, Dv]. If D and Dv differ, as in multi-head latent
    attention, the smaller ones are stored with zeros up to the larger size, which change nothing.
    """
    value_size = value.shape[-1]
    if key.shape[-1] != value_size:
        size = max(key.shape[-1], value_size)
        query, key, value = (pad(each, (0, size - each.shape[-1])) for each in (query, key, value))
    new_kv = torch.cat((key[0], value[0])).transpose(0, 1)
    out = _contexts[-1][0].attend_layer(index, new_kv, query[0].transpose(0, 1), params)
    return out[None, ..., :value_size]


def recall_recent(index: int, values: Tensor, count: int) -> Tensor:
    """Store `values` [1, T, C], C even, of layer `index`, and recall those of recent positions.

    Returns [1, T, count, C]: of each token the values of its last `count` positions, oldest first,
    with zeros before the first token of its row.
    """
    halves = values[0].unflatten(-1, (2, -1))
    return _contexts[-1][0].recall_layer(index, halves, count).flatten(-2)[None]


AttentionInterface.register(IMPLEMENTATION, attend)
# AttentionMaskInterface gets no entry, so transformers builds no mask. Nor does it look for packed
# rows in the positions, for which the host would have to wait for the device.
