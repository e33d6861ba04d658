"""Where keys and values live: one pool of slots per layer, addressed by page.

A page is `PAGE_SIZE` consecutive slots; page 0 is the trash page and has no owner. The router owns
the allocation; this file only maps positions to slots and holds the tensors. Target and draft each
have a cache with the same number of slots, so one page id addresses both. Rolling back is
arithmetic on a row's length: slots beyond it are garbage and are written before they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAGE_SIZE = 16
"""Tokens per page."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Keys and values of one layer on this rank, as the model's own forward produced them."""

    heads: int
    head_dim: int


class KvCache:
    """One `[slots, 2 * heads, head_dim]` tensor per layer: keys first, then values.

    Token-major, so a Step writes keys and values of all its tokens with one `index_copy_`, and a
    row whose pages are adjacent is read as a slice without a copy.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Reserve `pages` usable pages and the trash page."""
        slots = (pages + 1) * PAGE_SIZE
        self._layers = [
            torch.empty(slots, 2 * shape.heads, shape.head_dim, dtype=dtype, device=device)
            for shape in shapes
        ]
        self._views = [  # [2, heads, slots, head_dim]
            pool.view(len(pool), 2, -1, pool.shape[2]).permute(1, 2, 0, 3) for pool in self._layers
        ]

    def write(self, layer: int, slots: Tensor, new_kv: Tensor) -> None:
        """Store `new_kv` [T, 2 * heads, head_dim], keys first, at `slots` [T] (int64)."""
        self._layers[layer].index_copy_(0, slots, new_kv)

    def pool(self, layer: int) -> Tensor:
        """One layer's `[slots, 2 * heads, head_dim]`; its address never changes."""
        return self._layers[layer]

    def read(self, layer: int, spans: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Keys and values, each [heads, L, head_dim], of the slots in `spans`, in order.

        A view of the pool if there is one span, a copy if there are several.
        """
        pool = self._views[layer]
        if len(spans) == 1:
            both = pool[:, :, spans[0]]
        else:
            both = torch.cat([pool[:, :, span] for span in spans], 2)
        keys, values = both.unbind()
        return keys, values

    def read_slots(self, layer: int, slots: Tensor) -> Tensor:
        """What is stored at `slots` (int64), [*slots, 2 * heads, head_dim]; zeros at slot -1."""
        stored = self._layers[layer][slots.clamp(min=0)]
        return stored.masked_fill_((slots < 0)[..., None, None], 0.0)

    @property
    def pools_by_page(self) -> list[Tensor]:
        """Every layer's pool by page: [pages, PAGE_SIZE, 2 * heads, head_dim], a view."""
        return [pool.view(-1, PAGE_SIZE, *pool.shape[1:]) for pool in self._layers]


def bytes_per_page(shapes: Sequence[LayerShape], dtype: torch.dtype) -> int:
    """Bytes of one page over all layers."""
    elements = sum(2 * shape.heads * shape.head_dim for shape in shapes)
    return elements * dtype.itemsize * PAGE_SIZE


def slot_index(pages: Sequence[int], position: int) -> int:
    """The slot of `position` in a row that owns `pages`. Raises IndexError beyond them."""
    return pages[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE


def slot_spans(pages: Sequence[int], length: int) -> tuple[slice, ...]:
    """The slots of a row's first `length` tokens as the fewest adjacent spans."""
    spans: list[slice] = []
    for index in range(-(-length // PAGE_SIZE)):
        start = pages[index] * PAGE_SIZE
        stop = start + min(PAGE_SIZE, length - index * PAGE_SIZE)
        if spans and spans[-1].stop == start:
            spans[-1] = slice(spans[-1].start, stop)
        else:
            spans.append(slice(start, stop))
    return tuple(spans)
