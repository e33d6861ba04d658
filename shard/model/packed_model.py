"""A transformers causal LM that runs packed over its own paged cache.

One object per served model: the module, its cache and the few facts that the engine needs. It turns
spans of tokens into logits and knows no sampling, no drafts and no requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from shard.attention import backends
from shard.attention.interface import AttentionProbe
from shard.attention.kv_cache import PAGE_SIZE, KvCache, LayerShape, bytes_per_page
from shard.attention.paged_layout import PagedLayout
from shard.batch.packing import PackedBatch, TokenSpan, pack_spans
from shard.errors import StartupError
from shard.lora.lora_adapter import AdaptableLayer
from shard.model.cuda_graphs import ForwardGraphs, largest_bucket
from shard.model.forward import choose_forward, transformers_forward
from shard.model.fused_llama import FusedLlama
from shard.model.lora_layers import LoraLayers, adapt_module
from shard.model.product_times import ONE_RANK, Measurements

_HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LoadedModel:
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
    """End-of-sequence ids, all inside the vocabulary."""
    warnings: tuple[str, ...] = ()
    """What was wrong with the folder and was ignored, one line each."""
    adaptable: Mapping[str, AdaptableLayer] = field(default_factory=dict)
    """The layers that LoRA adapters may change, by name."""

    @property
    def page_bytes(self) -> int:
        """Bytes of one page of this model's cache."""
        return bytes_per_page(self.shapes, self.dtype)


class PackedModel:
    """`loaded` with a cache of `pages` pages, for Steps of `rows` rows of `width` tokens."""

    def __init__(
        self,
        loaded: LoadedModel,
        pages: int,
        rows: int = 1,
        width: int = 1,
        fuse: bool = True,
        measurements: Measurements = ONE_RANK,
        adapters: bool = False,
    ) -> None:
        """Only the CPU uses the fused forward: on a GPU it would hold the weights twice for a
        moment, and graphs already save launches. `measurements` makes the times by which it is
        laid out equal on all ranks. `adapters`: whether rows may have one.
        """
        device = loaded.device
        self.facts = loaded
        self.cache = KvCache(loaded.shapes, pages, loaded.dtype, device)
        self._backend = backends.choose_backend(device)
        fuse = fuse and device.type == "cpu"
        self._adapted = LoraLayers() if adapters else None
        self.forward = choose_forward(
            loaded.module, loaded.name, loaded.shapes, fuse, measurements, self._adapted
        )
        if adapters and not isinstance(self.forward, FusedLlama):
            self._adapted = adapt_module(loaded.module, loaded.adaptable)
        self.paged_backend = backends.paged_backend(self._backend, device)
        self._run_packed: Callable[[PackedBatch], Tensor] = self._run_eager
        self.uses_graphs = isinstance(self._backend, backends.TritonPagedAttention)
        if isinstance(self._backend, backends.TritonPagedAttention):
            max_pages = min(pages, -(-loaded.max_length // PAGE_SIZE))
            largest = largest_bucket(rows, width)
            self._run_packed = ForwardGraphs(
                self.forward, self._run_eager, self.cache, self._backend, largest, max_pages
            )

    def logits(self, spans: Sequence[TokenSpan]) -> Tensor:
        """Run `spans` in one forward; logits [sum of logit counts, V] in the model's dtype.

        They are valid until the next call. Raises ProtocolError if a row lacks pages.
        """
        with torch.inference_mode():
            packed = pack_spans(spans, self.cache, _HOST)
            if self._adapted is None:
                return self._run_packed(packed)
            with self._adapted.used_by(spans, self.facts.device) as uses_adapters:
                # recorded graphs are of the model alone
                return self._run_eager(packed) if uses_adapters else self._run_packed(packed)

    def _run_eager(self, packed: PackedBatch) -> Tensor:
        device = self.facts.device
        slots = packed.layout.slots.to(device)
        layout = self._backend.plan(PagedLayout(self.cache, slots, packed.layout.segments))
        ids, positions = packed.ids.to(device), packed.positions.to(device)
        return self.forward(ids, positions, layout, packed.logit_indices.to(device))


def layer_shapes(module: nn.Module, name: str, probe: AttentionProbe) -> tuple[LayerShape, ...]:
    """Shapes of every layer's keys and values, as `probe` has recorded them.

    Raises StartupError 4 for a model of which not every layer attends to paged keys.
    """
    shapes = probe.shapes
    layers = int(module.config.get_text_config().num_hidden_layers)  # type: ignore[union-attr, operator]
    if sorted(shapes) != list(range(layers)):
        raise StartupError(
            4, f"{name} is not supported: not all of its {layers} layers are attention"
        )
    return tuple(shapes[index] for index in range(layers))


def probe_attention(module: nn.Module, name: str, device: torch.device) -> AttentionProbe:
    """What each layer passes to attention, recorded with one token.

    Raises StartupError 4 for a model that cannot run on a paged cache, such as one whose layers
    attend twice.
    """
    layout = AttentionProbe()
    zero = torch.zeros(1, 1, dtype=torch.int64, device=device)
    try:
        with torch.inference_mode():
            transformers_forward(module)(zero, zero, layout, zero[0])
    except torch.OutOfMemoryError:
        raise
    except Exception as fault:  # a model's own code may raise anything
        line = str(fault).strip().split("\n")[0]
        raise StartupError(
            4, f"{name} is not supported: its attention cannot be paged ({line})"
        ) from fault
    return layout
