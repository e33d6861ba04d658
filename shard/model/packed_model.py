"""A transformers causal LM that runs packed over its own paged cache.

One object per served model: the module, its pool and the few facts that the engine needs. It
turns feeds into logits and knows no sampling, no draft and no request's fate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shard.attention import backends
from shard.attention.interface import Paged, Probe
from shard.attention.kv_cache import PAGE_SIZE, KvCache, LayerShape, bytes_per_page
from shard.batch.packing import Feed, Packed, pack
from shard.errors import Fault
from shard.model.cuda_graphs import Graphs, largest
from shard.model.forward import choose, plain

_HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory, before it has a cache."""

    name: str
    """The architecture, for messages."""
    module: nn.Module
    shapes: tuple[LayerShape, ...]
    """Keys and values of every layer on this rank."""
    dtype: torch.dtype
    device: torch.device
    vocab_size: int
    max_length: int
    eos: frozenset[int]

    @property
    def page_bytes(self) -> int:
        """Memory that one page of this model takes."""
        return bytes_per_page(self.shapes, self.dtype)


class PackedModel:
    """`loaded` with a cache of `pages` pages, for Steps of `rows` rows of `width` tokens."""

    def __init__(
        self, loaded: Loaded, pages: int, rows: int = 1, width: int = 1, fuse: bool = True
    ) -> None:
        """Only the CPU fuses: elsewhere weights would be held twice, and graphs save launches."""
        device = loaded.device
        self.facts = loaded
        self.cache = KvCache(loaded.shapes, pages, loaded.dtype, device)
        self._backend = backends.choose(device)
        fuse = fuse and device.type == "cpu"
        self.forward = choose(loaded.module, loaded.name, loaded.shapes, fuse)
        self.tables = backends.tables(self._backend, device)
        self._run: Callable[[Packed], Tensor] = self._eager
        self.records = isinstance(self._backend, backends.TritonPaged)
        if isinstance(self._backend, backends.TritonPaged):
            most = min(pages, -(-loaded.max_length // PAGE_SIZE))
            bounds = largest(rows, width)
            self._run = Graphs(self.forward, self._eager, self.cache, self._backend, bounds, most)

    def logits(self, feeds: Sequence[Feed]) -> Tensor:
        """Run `feeds` in one forward; logits [sum of feed.logits, V] in the model's dtype.

        They are valid until the next call.
        """
        with torch.inference_mode():
            return self._run(pack(feeds, self.cache, _HOST))

    def _eager(self, packed: Packed) -> Tensor:
        device = self.facts.device
        slots = packed.layout.slots.to(device)
        layout = self._backend.plan(Paged(self.cache, slots, packed.layout.segments))
        ids, positions = packed.ids.to(device), packed.positions.to(device)
        return self.forward(ids, positions, layout, packed.wanted.to(device))


def probe(module: nn.Module, name: str, device: torch.device) -> tuple[LayerShape, ...]:
    """Shapes of every layer's keys and values, from one forward of one token.

    Raises Fault 4 for a model whose attention does not pass through the interface in every
    layer, or whose keys and values differ in size.
    """
    layout = Probe()
    zero = torch.zeros(1, 1, dtype=torch.int64, device=device)
    try:
        with torch.inference_mode():
            plain(module)(zero, zero, layout, zero[0])
    except torch.OutOfMemoryError:
        raise
    except Exception as fault:  # whatever a model's own code trips over
        line = str(fault).strip().split("\n")[0]
        raise Fault(
            4, f"{name} is not supported: its attention cannot be paged ({line})"
        ) from fault
    layers = int(module.config.get_text_config().num_hidden_layers)  # type: ignore[union-attr, operator]
    if sorted(layout.shapes) != list(range(layers)):
        raise Fault(4, f"{name} is not supported: not all of its {layers} layers are attention")
    return tuple(layout.shapes[index] for index in range(layers))
