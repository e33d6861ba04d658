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
from shard.model.lora_batch import SlotRun, slot_runs


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
        self._down: Tensor | None = None
        """[slots, parts, rank, in]; None as long as no adapter changes the product."""

    def __call__(self, x: Tensor) -> Tensor:
        out = self._product(x)
        if self._down is not None:
            for run in self._layers.runs:
                self._add(out[run.start : run.stop], x[run.start : run.stop], run, self._down)
        return out

    def _add(self, out: Tensor, x: Tensor, run: SlotRun, all_down: Tensor) -> None:
        down = all_down[run.first : run.last]
        low = torch.mm(x, down.flatten(0, 2).t()).view(len(x), len(down), -1)
        if run.foreign is not None:
            low.masked_fill_(run.foreign, 0)
        by_part = low.view(len(x), len(down), len(self._parts), -1)
        for index, part in enumerate(self._parts):
            if part.up is not None:
                up = part.up[run.first : run.last].flatten(0, 1)
                out[:, part.start : part.stop].addmm_(by_part[:, :, index].flatten(1), up)

    def clear(self) -> None:
        """Empty all slots, and free them."""
        self._down = None
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
                self._down = down.new_zeros(slots, len(self._parts), rank, down.shape[1])
            if part.up is None:
                part.up = up.new_zeros(slots, rank, up.shape[1])
            self._down[slot, index, : len(down)] = down
            part.up[slot, : len(up)] = up if part.order is None else up[:, part.order]


class LoraLayers:
    """All adapted products of one model, and the slots of its adapters."""

    def __init__(self) -> None:
        self.runs: tuple[SlotRun, ...] = ()
        """Of the present forward; empty if none of its tokens uses an adapter."""
        self._products: list[AdaptedProduct] = []
        self._slots: dict[int, int] = {}
        """Slots by the number of an adapter, the one that was used least recently first."""
        self._count = self._rank = 0

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
            self.runs = slot_runs(spans, self._slots, device)
        try:
            yield bool(wanted)
        finally:
            self.runs = ()

    def _place(self, wanted: Mapping[int, Adapter]) -> None:
        """Put the adapters `wanted` into slots, instead of the least recently used others."""
        rank = max(adapter.rank for adapter in wanted.values())
        if len(wanted) > self._count or rank > self._rank:
            self._resize(max(len(wanted), self._count), rank)
        for number, adapter in wanted.items():
            slot = self._slots.pop(number, None)
            if slot is None:
                slot = self._free_slot(wanted)
                for product in self._products:
                    product.place(adapter, slot, self._count, self._rank)
            self._slots[number] = slot

    def _resize(self, count: int, rank: int) -> None:
        for product in self._products:
            product.clear()
        self._slots.clear()
        self._count, self._rank = count, rank

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
        if not adapted.runs:
            return forward(x)
        return product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    return of_tokens
