"""Which part of every parameter a rank keeps; a pure function of the model's shapes and its plan.

The plan of transformers (`tp_plan`, with layer numbers as `*`) names a style for modules, and for
parameters without a module of their own. A style becomes spans of one dimension. No weight is read
or assigned here: `weights` reads a `Partition`, and `collectives` adds the hooks of a plan.
Embeddings and unlisted parameters are replicated, and so are key/value heads if there are fewer
than ranks. An unsupported style is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from shard.errors import StartupError

Span = tuple[int, int]
"""Start and stop."""
GATHERED_OUTPUT = "colwise_gather_output"
SPLIT_INPUT = ("rowwise_split_input", "rowwise_rep")
ROWWISE = ("rowwise", *SPLIT_INPUT)
_COLWISE = ("colwise", "colwise_rep", GATHERED_OUTPUT)
_PACKED_DIMS = {"packed_colwise": -2, "packed_rowwise": -1}
UNPARTITIONED = frozenset(
    "replicate replicated_with_grad_allreduce embedding_rowwise embedding_colwise"  # noqa: SIM905
    " local_params all_reduce moe_tp_experts mla_kv_a_proj".split()
)
"""Styles of modules whose own parameters are kept whole, or have their own entries."""
_FIRST_RANK_ONLY = "first_rank"
"""Not a style of transformers: a bias that is added before the all-reduce, so on rank 0 only."""
_KV_PROJECTIONS = ("k_proj", "v_proj")
_HEAD_PROJECTIONS = ("q_proj", *_KV_PROJECTIONS)
_EXTRA_PLANS = {
    "gpt_oss": {  # transformers ships a plan for expert parallelism only
        "model.layers.*.self_attn.q_proj": "colwise",
        "model.layers.*.self_attn.k_proj": "colwise",
        "model.layers.*.self_attn.v_proj": "colwise",
        "model.layers.*.self_attn.o_proj": "rowwise",
        "model.layers.*.self_attn.sinks": "colwise",
        "model.layers.*.mlp.experts": "moe_tp_experts",
        # [experts, in, out], where gate and up alternate, so that a span has whole pairs
        "model.layers.*.mlp.experts.gate_up_proj": "rowwise",
        "model.layers.*.mlp.experts.gate_up_proj_bias": "rowwise",
        "model.layers.*.mlp.experts.down_proj": "colwise",
        "model.layers.*.mlp.experts.down_proj_bias": _FIRST_RANK_ONLY,
    }
}
"""Additional plans by `model_type`, which extend those of transformers."""


@dataclass(frozen=True, slots=True)
class TensorParallelRank:
    """Rank `rank` of `world`."""

    rank: int
    world: int


@dataclass(frozen=True, slots=True)
class Partition:
    """The part of a parameter that this rank keeps: the concatenated `spans` of dimension `dim`.

    Without spans it keeps the whole parameter.
    """

    dim: int = 0
    spans: tuple[Span, ...] = ()
    zeroed: bool = False
    """Keep the shape, but with all values 0."""

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the part, for a parameter of shape `whole`."""
        if not self.spans:
            return whole
        size = sum(stop - start for start, stop in self.spans)
        return (*whole[: self.dim], size, *whole[self.dim + 1 :])

    def copy_to(self, whole: Any, part: Tensor) -> None:
        """Copy the spans of `whole`, a tensor or a lazy slice of a file, to `part`."""
        if self.zeroed:
            part.zero_()
            return
        offset = 0
        for start, stop in self.spans or ((0, part.shape[self.dim]),) if part.ndim else ():
            index = (*[slice(None)] * self.dim, slice(start, stop))
            part.narrow(self.dim, offset, stop - start).copy_(whole[index])
            offset += stop - start
        if not part.ndim:
            part.copy_(whole[...])


WHOLE = Partition()


def tensor_parallel_plan(module: nn.Module, name: str, ranks: TensorParallelRank) -> dict[str, str]:
    """The style of each module and parameter in the plan, by full name; empty for one rank.

    Raises StartupError(4) if the architecture has no plan that divides its layers.
    """
    if ranks.world == 1:
        return {}
    kind = module.config.get_text_config().model_type  # type: ignore[union-attr, operator]
    rules: dict[str, str] = {
        **(getattr(module, "tp_plan", None) or {}),
        **_EXTRA_PLANS.get(kind, {}),
    }
    if not any(style in ROWWISE for style in rules.values()):
        raise StartupError(4, f"{name} has no tensor-parallel plan; serve it with --num-shard 1")
    names = [path for path, _ in module.named_modules()]
    names += [path for path, _ in module.named_parameters(remove_duplicate=False)]
    patterns = {re.compile(re.escape(key).replace(r"\*", r"\d+")): s for key, s in rules.items()}
    styles = ((n, next((s for p, s in patterns.items() if p.fullmatch(n)), None)) for n in names)
    return {path: style for path, style in styles if style is not None}


def partitions(module: nn.Module, name: str, ranks: TensorParallelRank) -> dict[str, Partition]:
    """The partition of every parameter that is not kept whole, by full name. Reads only shapes.

    Raises StartupError: 2 if a size cannot be divided by the ranks, 4 for an unsupported style.
    """
    styles = tensor_parallel_plan(module, name, ranks)
    return dict(_partitions(module, name, styles, ranks))


def _partitions(
    module: nn.Module, name: str, styles: dict[str, str], ranks: TensorParallelRank
) -> Iterator[tuple[str, Partition]]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for path, style in styles.items():
        if style in UNPARTITIONED:
            continue
        if path in parameters:
            yield path, _partition(style, parameters[path].shape, path, name, ranks)
            continue
        part = module.get_submodule(path)
        if not isinstance(part, nn.Linear):
            raise StartupError(
                4, f"{name} cannot be sharded: {path} ({style}) is not a linear layer"
            )
        if style == GATHERED_OUTPUT and part.out_features % ranks.world:
            continue  # every rank computes all of it
        placed = _head_group(module, path, part, name, ranks)
        for leaf, parameter in part.named_parameters(recurse=False):
            bias = leaf == "bias" and style in ROWWISE
            leaf_style = _FIRST_RANK_ONLY if bias else style
            yield f"{path}.{leaf}", _partition(leaf_style, parameter.shape, path, name, placed)


def _partition(
    style: str, shape: tuple[int, ...], path: str, name: str, ranks: TensorParallelRank
) -> Partition:
    if style == _FIRST_RANK_ONLY:
        return Partition(zeroed=ranks.rank > 0)
    if style in _PACKED_DIMS:
        dim = max(0, len(shape) + _PACKED_DIMS[style])
        half = shape[dim] // 2
        first = _rank_span(half, path, ranks)
        return Partition(dim, (first, (half + first[0], half + first[1])))
    if style in _COLWISE:
        dim = max(0, len(shape) - 2)
    elif style in ROWWISE:
        dim = len(shape) - 1
    else:
        raise StartupError(
            4, f"{name} cannot be sharded: the style {style} of {path} is not supported"
        )
    return Partition(dim, (_rank_span(shape[dim], path, ranks),))


def _rank_span(size: int, path: str, ranks: TensorParallelRank) -> Span:
    if size % ranks.world:
        raise StartupError(2, f"{path}: {size} features cannot be divided by {ranks.world} shards")
    width = size // ranks.world
    return ranks.rank * width, (ranks.rank + 1) * width


def _head_group(
    module: nn.Module, path: str, part: nn.Linear, name: str, ranks: TensorParallelRank
) -> TensorParallelRank:
    """`ranks`, or fewer groups of ranks if these share key/value heads; a head is never split."""
    if not path.endswith(_HEAD_PROJECTIONS):
        return ranks
    size = getattr(module.get_submodule(path.rpartition(".")[0]), "head_dim", None)
    if not isinstance(size, int):
        return ranks
    heads = part.out_features // size
    if path.endswith(_KV_PROJECTIONS) and ranks.world % heads == 0 and heads < ranks.world:
        return TensorParallelRank(ranks.rank * heads // ranks.world, heads)
    if heads % ranks.world:
        raise StartupError(
            2, f"{name}: the {heads} heads of {path} cannot be divided by {ranks.world} shards"
        )
    return ranks
