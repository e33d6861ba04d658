"""A faster forward for models built like Llama, in float32.

transformers spends most of a small forward in its own Python layers, and on products with weights
in a slow memory layout. This runner takes the weights out of the module tree and lays them out for
a packed Step, see `fused_weights`, in the layout that `product_times` has found to be the fastest.

How each layer attends is not read from the config but from what transformers passes to the
attention interface. The hooks of a module, which are its collectives, run around its product. The
caller compares a probe through both forwards before it uses this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from shard.attention.interface import AttentionProbe, Layout, use_layout
from shard.attention.sdpa_row import AttentionParams
from shard.model.fused_weights import (
    WeightPart,
    down_parts,
    gate_up_parts,
    gate_up_weights,
    interleaved_order,
    layer_products,
    o_parts,
    qkv_parts,
    qkv_weights,
)
from shard.model.linear_layers import Product, choose_head_plan, has_hooks, planned
from shard.model.lora_layers import LoraLayers, ProductPart
from shard.model.product_times import ONE_RANK, Measurements, time_and_choose
from shard.model.products import Linear, ProductPlan

GEMMA = "GemmaForCausalLM"
ARCHITECTURES = frozenset(
    (
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        GEMMA,
    )
)
"""Pre-norm decoders with separate q, k, v, gate and up projections, each tested by tokens."""
_POSITION_ONLY_ROPES = frozenset(("default", "linear", "llama3", "yarn"))
"""Rotary embeddings whose angle depends on the position alone."""

TensorFunction = Callable[[Tensor], Tensor]


class CannotFuse(Exception):
    """Why a model keeps transformers' forward; the text is logged."""


class FusedLlama:
    """The forward of `module`, an architecture called `name`.

    Copies the weights; `free_module_weights` frees the originals. Raises CannotFuse for a model
    that is not built like Llama.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        measurements: Measurements = ONE_RANK,
        adapted: LoraLayers | None = None,
    ) -> None:
        """`measurements` makes the measured times of products equal on all ranks.

        The products are added to `adapted`, if adapters may be used.
        """
        check_fusable(module, name)
        params = _attention_params(module)
        core: Any = module.get_submodule("model")
        weight_offset = 1.0 if name == GEMMA else 0.0
        self._embed = _bypass_hooks(core.embed_tokens)
        weights = chain.from_iterable(map(layer_products, core.layers))
        plan = time_and_choose(weights, measurements)
        self._layers = [
            _FusedLayer(index, layer, params[index], plan, weight_offset, adapted)
            for index, layer in enumerate(core.layers)
        ]
        self._norm = _RmsNorm.from_module(core.norm, weight_offset)
        head: Any = module.get_submodule("lm_head")
        self._head = planned(head, choose_head_plan(head, core.embed_tokens, measurements))
        self._rotations = _rotation_table(core)
        if 2 * self._rotations.shape[-1] != core.layers[0].self_attn.head_dim:
            raise CannotFuse("only a part of each head is rotated")

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout, wanted: Tensor) -> Tensor:
        """Logits [N, V] at the indices `wanted` [N] of the packed tokens `ids` [1, T]."""
        rotations = self._rotations[positions[0]]
        hidden = self._embed(ids[0])
        for layer in self._layers:
            hidden = layer(hidden, rotations, layout)
        return self._head(self._norm(hidden[wanted]))


def free_module_weights(module: nn.Module) -> None:
    """Free the weights that a `FusedLlama` has copied; `module` can no longer run."""
    module.get_submodule("model").layers = nn.ModuleList()
    module.lm_head = nn.Identity()


def check_fusable(module: nn.Module, name: str) -> None:
    """Raise CannotFuse for a model that the runner does not support."""
    if name not in ARCHITECTURES:
        raise CannotFuse(f"{name} is not among the architectures with a fused forward")
    if (dtype := next(module.parameters()).dtype) != torch.float32:
        raise CannotFuse(f"the fused forward computes in float32, not {dtype}")
    if any(type(parameter) is not nn.Parameter for parameter in module.parameters()):
        raise CannotFuse("packed weights are multiplied by kernels of their own")
    config: Any = module.config
    if (rope := config.rope_parameters["rope_type"]) not in _POSITION_ONLY_ROPES:
        raise CannotFuse(f"rotary embedding of type {rope} depends on more than the position")


class _FusedLayer:
    """One decoder layer: attention and MLP, each behind a norm and added to its input."""

    def __init__(
        self,
        index: int,
        layer: Any,
        params: AttentionParams,
        plan: ProductPlan,
        weight_offset: float,
        adapted: LoraLayers | None,
    ) -> None:
        extend = partial(_with_adapters, adapted, index)
        attention, mlp = layer.self_attn, layer.mlp
        self._index = index
        self._params = params
        self._head_dim: int = attention.head_dim
        self._rotated_heads = sum(
            part.weight.shape[0] // self._head_dim for part in (attention.q_proj, attention.k_proj)
        )
        self._query_heads = attention.q_proj.weight.shape[0] // self._head_dim
        self._input_norm = _RmsNorm.from_module(layer.input_layernorm, weight_offset)
        self._qkv_proj = extend(qkv_parts(layer), Linear(*qkv_weights(layer), plan))
        self._qk_norm = _fuse_head_norms(attention, self._query_heads, self._rotated_heads)
        self._o_proj = planned(attention.o_proj, plan, partial(extend, o_parts(layer)))
        self._post_attention_norm = _RmsNorm.from_module(
            layer.post_attention_layernorm, weight_offset
        )
        self._gate_up_proj = extend(gate_up_parts(layer), Linear(*gate_up_weights(layer), plan))
        self._activation = _bypass_hooks(mlp.act_fn)
        self._down_proj = planned(mlp.down_proj, plan, partial(extend, down_parts(layer)))

    def __call__(self, hidden: Tensor, rotations: Tensor, layout: Layout) -> Tensor:
        hidden = hidden + self._attend(self._input_norm(hidden), rotations, layout)
        gate, up = self._gate_up_proj(self._post_attention_norm(hidden)).chunk(2, -1)
        return self._down_proj(self._activation(gate) * up).add_(hidden)

    def _attend(self, hidden: Tensor, rotations: Tensor, layout: Layout) -> Tensor:
        """Attention of the normalised `hidden` [T, hidden size]."""
        qkv = self._qkv_proj(hidden).view(hidden.shape[0], -1, self._head_dim)
        rotated = qkv[:, : self._rotated_heads]
        if self._qk_norm is not None:
            rotated.copy_(self._qk_norm(rotated))
        torch.view_as_complex(rotated.view(*rotated.shape[:2], -1, 2)).mul_(rotations)
        query, new_kv = qkv[:, : self._query_heads], qkv[:, self._query_heads :]
        out = layout.attend_layer(self._index, new_kv, query, self._params)
        return self._o_proj(out.reshape(hidden.shape[0], -1))


def _with_adapters(
    adapted: LoraLayers | None, index: int, parts: Sequence[WeightPart], product: Product
) -> Product:
    """`product`, whose outputs are the `parts` of layer `index`, with adapters next to it."""
    if adapted is None:
        return product
    named, start = [], 0
    for part in parts:
        name, stop = f"model.layers.{index}.{part.name}", start + part.outputs
        named.append(ProductPart(name, start, stop, part.order))
        start = stop
    return adapted.adapt(product, *named)


@dataclass(frozen=True, slots=True)
class _RmsNorm:
    """RMS norm in four kernels: x / hypot(|x|, sqrt(n * eps)) * (weight * sqrt(n))."""

    weight: Tensor
    scaled_epsilon: Tensor

    @classmethod
    def from_module(cls, norm: Any, weight_offset: float) -> _RmsNorm:
        """The norm of module `norm`; Gemma adds `weight_offset` to the weight."""
        return cls.from_weight(norm.weight + weight_offset, _epsilon(norm))

    @classmethod
    def from_weight(cls, weight: Tensor, epsilon: float) -> _RmsNorm:
        size = weight.shape[-1]
        scaled_epsilon = torch.tensor((size * epsilon) ** 0.5, device=weight.device)
        return cls(weight * size**0.5, scaled_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.div(torch.hypot(length, self.scaled_epsilon)).mul_(self.weight)


def _epsilon(norm: Any) -> float:
    value: float = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return value


def _attention_params(module: nn.Module) -> dict[int, AttentionParams]:
    """How each layer attends, from one forward of one token."""
    probe = AttentionProbe()
    zero = torch.zeros(1, 1, dtype=torch.int64, device=next(module.parameters()).device)
    with use_layout(probe, zero):
        module(input_ids=zero, position_ids=zero, use_cache=False)
    return probe.params


def _rotation_table(core: Any) -> Tensor:
    """Rotations of every position as complex numbers [positions, 1, D / 2]."""
    weight = core.norm.weight
    positions = torch.arange(core.config.max_position_embeddings, device=weight.device)[None]
    cos, sin = core.rotary_emb(weight, positions)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half], sin[0, :, :half])[:, None]


def _fuse_head_norms(attention: Any, query_heads: int, rotated_heads: int) -> _RmsNorm | None:
    """Qwen3's norms of the query and key heads as one, [heads, D]; None for other models."""
    if not hasattr(attention, "q_norm"):
        return None
    order = interleaved_order(attention.head_dim)
    query, key = attention.q_norm.weight[order], attention.k_norm.weight[order]
    weight = torch.cat((query.expand(query_heads, -1), key.expand(rotated_heads - query_heads, -1)))
    return _RmsNorm.from_weight(weight, _epsilon(attention.q_norm))


def _bypass_hooks(part: Any) -> TensorFunction:
    """The forward of `part`, without the lookup of hooks if it has none."""
    forward: TensorFunction = part if has_hooks(part) else part.forward
    return forward
