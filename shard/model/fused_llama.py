"""A faster forward for models built like Llama, in float32.

transformers spends most of a small forward on its own layers of Python, and on products with
weights that lie the slow way round. This runner takes the weights out of the module tree and lays
them out for a packed Step: transposed, queries, keys and values as one product, gate and up as
another. The two halves that rotary embedding mixes are interleaved in the weights of queries and
keys, which leaves their products as they are and makes the rotation one complex product.

How each layer attends is not read from the config but taken from what transformers hands to the
attention interface. Parts with hooks, that is with collectives, are called as the modules they
are. The caller compares a probe through both forwards before it trusts this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shard.attention.interface import Layout, Probe, Rule, attending

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
"""Pre-norm decoders of separate q, k, v, gate and up projections, tested token for token."""
_ROPES = frozenset(("default", "linear", "llama3", "yarn"))
"""Rotary embeddings whose angle depends on the position alone."""

Product = Callable[[Tensor], Tensor]


class Unfusable(Exception):
    """Why a model keeps transformers' forward, in words for the log."""


class Fused:
    """The forward of `module`, an architecture called `name`.

    Copies the weights; `release` frees the module's own. Raises Unfusable for a model that is not
    built like Llama.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        refuse(module, name)
        rules = _rules(module)
        core: Any = module.get_submodule("model")
        gain = 1.0 if name == GEMMA else 0.0
        self._embed = _called(core.embed_tokens)
        self._layers = [
            _Layer(index, layer, rules[index], gain) for index, layer in enumerate(core.layers)
        ]
        self._norm = _Norm.of(core.norm, gain)
        self._head = _product(module.get_submodule("lm_head"))
        self._turns = _turns(core)
        if 2 * self._turns.shape[-1] != core.layers[0].self_attn.head_dim:
            raise Unfusable("only a part of each head is rotated")

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout, wanted: Tensor) -> Tensor:
        """Logits [N, V] at the indices `wanted` [N] of the packed tokens `ids` [1, T]."""
        turns = self._turns[positions[0]]
        hidden = self._embed(ids[0])
        for layer in self._layers:
            hidden = layer(hidden, turns, layout)
        return self._head(self._norm(hidden[wanted]))


def release(module: nn.Module) -> None:
    """Free the weights that a `Fused` has copied; `module` cannot run any more."""
    module.get_submodule("model").layers = nn.ModuleList()
    module.lm_head = nn.Identity()


def refuse(module: nn.Module, name: str) -> None:
    """Raise Unfusable for what the runner was not built for."""
    if name not in ARCHITECTURES:
        raise Unfusable(f"{name} is not among the architectures with a fused forward")
    if (dtype := next(module.parameters()).dtype) != torch.float32:
        raise Unfusable(f"the fused forward computes in float32, not {dtype}")
    if any(type(parameter) is not nn.Parameter for parameter in module.parameters()):
        raise Unfusable("packed weights are multiplied by kernels of their own")
    config: Any = module.config
    if (rope := config.rope_parameters["rope_type"]) not in _ROPES:
        raise Unfusable(f"rotary embedding of type {rope} depends on more than the position")


class _Layer:
    """One decoder layer: attention and MLP, each behind a norm and added to its input."""

    def __init__(self, index: int, layer: Any, rule: Rule, gain: float) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._index = index
        self._rule = rule
        self._dim: int = attention.head_dim
        self._turned = sum(
            part.weight.shape[0] // self._dim for part in (attention.q_proj, attention.k_proj)
        )
        self._queries = attention.q_proj.weight.shape[0] // self._dim
        self._before = _Norm.of(layer.input_layernorm, gain)
        self._qkv = _qkv(attention)
        self._heads = _head_norm(attention, self._queries, self._turned)
        self._out = _product(attention.o_proj)
        self._between = _Norm.of(layer.post_attention_layernorm, gain)
        self._gate_up = _joined([_plain(mlp.gate_proj), _plain(mlp.up_proj)])
        self._activation = _called(mlp.act_fn)
        self._down = _product(mlp.down_proj)

    def __call__(self, hidden: Tensor, turns: Tensor, layout: Layout) -> Tensor:
        hidden = hidden + self._attend(self._before(hidden), turns, layout)
        gate, up = self._gate_up(self._between(hidden)).chunk(2, -1)
        return self._down(self._activation(gate) * up).add_(hidden)

    def _attend(self, hidden: Tensor, turns: Tensor, layout: Layout) -> Tensor:
        """Attention of `hidden` [T, hidden size], already normed."""
        qkv = self._qkv(hidden).view(hidden.shape[0], -1, self._dim)
        turned = qkv[:, : self._turned]
        if self._heads is not None:
            turned.copy_(self._heads(turned))
        torch.view_as_complex(turned.view(*turned.shape[:2], -1, 2)).mul_(turns)
        query, fresh = qkv[:, : self._queries], qkv[:, self._queries :]
        out = layout.layer(self._index, fresh, query, self._rule)
        return self._out(out.reshape(hidden.shape[0], -1))


@dataclass(frozen=True, slots=True)
class _Norm:
    """RMS norm in four kernels: x / hypot(|x|, sqrt(n * eps)) * (weight * sqrt(n))."""

    weight: Tensor
    floor: Tensor

    @classmethod
    def of(cls, norm: Any, gain: float) -> _Norm:
        """The norm of module `norm`, whose weight counts from `gain` on."""
        return cls.built(norm.weight + gain, _epsilon(norm))

    @classmethod
    def built(cls, weight: Tensor, epsilon: float) -> _Norm:
        size = weight.shape[-1]
        floor = torch.tensor((size * epsilon) ** 0.5, device=weight.device)
        return cls(weight * size**0.5, floor)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.div(torch.hypot(length, self.floor)).mul_(self.weight)


def _epsilon(norm: Any) -> float:
    value: float = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return value


def _rules(module: nn.Module) -> dict[int, Rule]:
    """How each layer attends, from one forward of one token."""
    probe = Probe()
    zero = torch.zeros(1, 1, dtype=torch.int64, device=next(module.parameters()).device)
    with attending(probe):
        module(input_ids=zero, position_ids=zero, use_cache=False)
    return probe.rules


def _turns(core: Any) -> Tensor:
    """Rotations of every position as complex numbers [positions, 1, D / 2]."""
    weight = core.norm.weight
    positions = torch.arange(core.config.max_position_embeddings, device=weight.device)[None]
    cos, sin = core.rotary_emb(weight, positions)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half], sin[0, :, :half])[:, None]


Weights = tuple[Tensor, Tensor | None]
"""Rows of output features, and their bias."""


def _plain(part: nn.Linear) -> Weights:
    return part.weight, part.bias


def _qkv(attention: Any) -> Product:
    """Queries, keys and values in one product, the first two interleaved."""
    turned = [
        _interleaved(part, attention.head_dim) for part in (attention.q_proj, attention.k_proj)
    ]
    return _joined([*turned, _plain(attention.v_proj)])


def _interleaved(part: nn.Linear, dim: int) -> Weights:
    def mixed(rows: Tensor) -> Tensor:
        return rows.view(-1, dim, *rows.shape[1:])[:, _order(dim)].reshape(rows.shape)

    return mixed(part.weight), None if part.bias is None else mixed(part.bias)


def _order(dim: int) -> Tensor:
    """Where each element of an interleaved head lies in a head of two halves."""
    return torch.arange(dim).view(2, -1).t().flatten()


def _head_norm(attention: Any, queries: int, turned: int) -> _Norm | None:
    """Qwen3's norms of each query and key head as one, [heads, D]; None where there are none."""
    if not hasattr(attention, "q_norm"):
        return None
    order = _order(attention.head_dim)
    query, key = attention.q_norm.weight[order], attention.k_norm.weight[order]
    weight = torch.cat((query.expand(queries, -1), key.expand(turned - queries, -1)))
    return _Norm.built(weight, _epsilon(attention.q_norm))


def _joined(parts: list[Weights]) -> Product:
    """One product for `parts`, by the transpose, which is up to three times as fast."""
    weight = torch.cat([rows for rows, _ in parts]).t().contiguous()
    if all(bias is None for _, bias in parts):
        return lambda x: torch.mm(x, weight)
    filled = [rows.new_zeros(len(rows)) if bias is None else bias for rows, bias in parts]
    bias = torch.cat(filled)
    return lambda x: torch.addmm(bias, x, weight)


def _product(part: Any) -> Product:
    """A linear layer; one with hooks as it is, since they hold its collectives."""
    product: Product = part if _hooked(part) else _joined([_plain(part)])
    return product


def _called(part: Any) -> Product:
    """What `part` computes, without the detour that modules take to look for hooks."""
    forward: Product = part if _hooked(part) else part.forward
    return forward


def _hooked(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)
