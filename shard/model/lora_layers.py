"""The products of a model with adapters next to them.

`LoraLayers` knows every product of a model that adapters may change and which slot each adapter
has. Before a forward it puts the adapters of its rows into slots; a forward without adapters
computes what it would without this file. An adapter that is not in a slot costs nothing but its
memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from shard.batch.packing import TokenSpan
from shard.lora.lora_adapter import AdaptableLayer, Adapter
from shard.model.linear_layers import Product
from shard.model.lora_batch import SlotGroups, SlotUse, slot_use

UNUSED = SlotUse()
"""Of a forward without adapters."""


@dataclass(slots=True)
class ProductPart:
    """The outputs `start` to `stop` of a product, which the model knows as the layer `name`."""

    name: str
    start: int
    stop: int
    order: Tensor | None = None
    """Index in the layer of each of the outputs, if they are in another order."""
    up: Tensor | None = field(default=None, init=False)
    """[slots, rank, outputs]; None as long as no adapter changes the part."""


class AdaptedProduct:
    """`product`, which returns a new tensor, and what adapters add to the `parts` of it."""

    def __init__(self, product: Product, parts: Sequence[ProductPart], layers: LoraLayers) -> None:
        self._product, self._parts, self._layers = product, parts, layers
        self._sizes = [part.stop - part.start for part in parts]
        self._down: Tensor | None = None
        """[slots, in, parts * rank]; None as long as no adapter changes the product."""
        self._down_by_slot: Sequence[Tensor] = ()
        self._up_by_slot: Sequence[Sequence[Tensor | None]] = ()
        """Of each part."""

    def __call__(self, x: Tensor) -> Tensor:
        out = self._product(x)
        if self._down is not None:
            use = self._layers.use
            if use.groups is not None:
                self._add_groups(out, x, use.groups, self._down)
            elif len(use.runs) == 1 and use.runs[0].stop - use.runs[0].start == len(x):
                self._add_slot(out, x, use.runs[0].slot)
            else:
                for run in use.runs:
                    self._add_slot(out[run.start : run.stop], x[run.start : run.stop], run.slot)
        return out

    def _add_slot(self, out: Tensor, x: Tensor, slot: int) -> None:
        """Add what the adapter in `slot` does with `x`; every view that is made here takes time."""
        low, ups = torch.mm(x, self._down_by_slot[slot]), self._up_by_slot[slot]
        if len(self._parts) == 1:
            _add_product(out, low, ups[0])
            return
        lows, outs = low.split(self._layers.rank, 1), out.split(self._sizes, 1)
        for own, low_part, up in zip(outs, lows, ups, strict=True):
            _add_product(own, low_part, up)

    def _add_groups(self, out: Tensor, x: Tensor, groups: SlotGroups, down: Tensor) -> None:
        slots = groups.last - groups.first
        placed = x if groups.index is None else x[groups.index]
        low = torch.bmm(placed.view(slots, -1, x.shape[1]), down[groups.first : groups.last])
        for part, low_part in zip(self._parts, low.split(self._layers.rank, 2), strict=True):
            if part.up is None:
                continue
            change = torch.bmm(low_part, part.up[groups.first : groups.last]).flatten(0, 1)
            if groups.places is not None:
                change = change[groups.places]
            own = out[:, part.start : part.stop]
            if groups.index is None:
                own.add_(change)
            else:
                own.index_add_(0, groups.tokens, change)

    def clear(self) -> None:
        """Empty all slots, and free them."""
        self._down, self._down_by_slot, self._up_by_slot = None, (), ()
        for part in self._parts:
            part.up = None

    def place(self, adapter: Adapter, slot: int, slots: int, rank: int) -> None:
        """Put the matrices of `adapter` into `slot` of `slots`, each for matrices up to `rank`."""
        found = [adapter.weights.get(part.name) for part in self._parts]
        if self._down is not None:
            self._down[slot].zero_()
        for index, (part, weights) in enumerate(zip(self._parts, found, strict=True)):
            if part.up is not None:
                part.up[slot].zero_()
            if weights is None:
                continue
            down, up = weights.down, weights.up
            if self._down is None:
                self._down = down.new_zeros(slots, down.shape[1], len(self._parts) * rank)
            if part.up is None:
                part.up = up.new_zeros(slots, rank, up.shape[1])
            self._down[slot, :, index * rank : index * rank + len(down)] = down.t()
            part.up[slot, : len(up)] = up if part.order is None else up[:, part.order]
        if self._down is not None:
            self._down_by_slot = self._down.unbind()
            ups = [part.up for part in self._parts]
            self._up_by_slot = [
                [None if up is None else up[each] for up in ups] for each in range(slots)
            ]


def _add_product(out: Tensor, low: Tensor, up: Tensor | None) -> None:
    if up is not None:
        out.addmm_(low, up)


class LoraLayers:
    """All adapted products of one model, and the slots of its adapters."""

    def __init__(self) -> None:
        self.use = UNUSED
        """Of the present forward."""
        self.rank = 0
        """Of the matrices that fit into a slot."""
        self._products: list[AdaptedProduct] = []
        self._slots: dict[int, int] = {}
        """Slots by the number of an adapter, the one that was used least recently first."""
        self._count = 0

    def adapt(self, product: Product, *parts: ProductPart) -> AdaptedProduct:
        """`product` with adapters next to it."""
        adapted = AdaptedProduct(product, parts, self)
        self._products.append(adapted)
        return adapted

    @contextmanager
    def used_by(self, spans: Sequence[TokenSpan], device: torch.device) -> Iterator[bool]:
        """Inside, a forward of `spans` computes with the adapters of their rows, if any has one."""
        adapters = [span.row.adapter for span in spans if span.row.adapter is not None]
        wanted = {adapter.number: adapter for adapter in adapters}
        if wanted:
            self._place(wanted)
            self.use = slot_use(spans, self._slots, device)
        try:
            yield bool(wanted)
        finally:
            self.use = UNUSED

    def _place(self, wanted: Mapping[int, Adapter]) -> None:
        """Put the adapters `wanted` into slots, instead of the least recently used others."""
        rank = max(adapter.rank for adapter in wanted.values())
        if len(wanted) > self._count or rank > self.rank:
            self._resize(max(len(wanted), self._count), rank)
        for number, adapter in wanted.items():
            slot = self._slots.pop(number, None)
            if slot is None:
                slot = self._free_slot(wanted)
                for product in self._products:
                    product.place(adapter, slot, self._count, self.rank)
            self._slots[number] = slot

    def _resize(self, count: int, rank: int) -> None:
        for product in self._products:
            product.clear()
        self._slots.clear()
        self._count, self.rank = count, rank

    def _free_slot(self, wanted: Collection[int]) -> int:
        unused = set(range(self._count)) - set(self._slots.values())
        if unused:
            return min(unused)
        return self._slots.pop(next(each for each in self._slots if each not in wanted))


def adapt_module(module: nn.Module, layers: Mapping[str, AdaptableLayer]) -> LoraLayers:
    """Let the linear `layers` of `module`, which runs by itself, compute with adapters.

    Their hooks, which are collectives, run around what adapters add.
    """
    adapted = LoraLayers()
    for name, layer in layers.items():
        part: Any = module.get_submodule(name)
        part.forward = _module_forward(adapted, part.forward, ProductPart(name, 0, layer.outputs))
    return adapted


def _module_forward(adapted: LoraLayers, forward: Product, part: ProductPart) -> Product:
    """`forward` for x [..., in], with adapters next to it."""
    product = adapted.adapt(forward, part)

    def of_tokens(x: Tensor) -> Tensor:
        if adapted.use is UNUSED:
            return forward(x)
        return product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    return of_tokens
