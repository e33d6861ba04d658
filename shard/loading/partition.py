"""Which part of every parameter a rank keeps; a pure function of the model's shapes and its plan.

transformers names for modules, and for parameters that have no module of their own, how they are
cut (`tp_plan`, layer numbers as `*`). We turn a style into spans of one dimension. Nothing here
reads, copies or assigns: `weights` reads by a `Cut`, `collectives` hooks what a plan sums.
Embeddings and all unlisted parameters are replicated, and so are key/value heads where there are
fewer than ranks. What cannot be followed is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from shard.errors import StartupError

Span = tuple[int, int]
"""First element and the one after the last."""
GATHERED_OUTPUT = "colwise_gather_output"
SPLIT_INPUT = ("rowwise_split_input", "rowwise_rep")
ROWWISE = ("rowwise", *SPLIT_INPUT)
_COLWISE = ("colwise", "colwise_rep", GATHERED_OUTPUT)
_PACKED_DIMS = {"packed_colwise": -2, "packed_rowwise": -1}
UNPARTITIONED = frozenset(
    "replicate replicated_with_grad_allreduce embedding_rowwise embedding_colwise"  # noqa: SIM905
    " local_params all_reduce moe_tp_experts".split()
)
"""Styles of modules whose own parameters stay whole, or are cut by entries of their own."""
_FIRST_RANK_ONLY = "first_rank"
"""Ours: a bias that is added before the sum over ranks, so only rank 0 has it."""
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
        # [experts, in, out], where gate and up alternate: a span holds whole pairs
        "model.layers.*.mlp.experts.gate_up_proj": "rowwise",
        "model.layers.*.mlp.experts.gate_up_proj_bias": "rowwise",
        "model.layers.*.mlp.experts.down_proj": "colwise",
        "model.layers.*.mlp.experts.down_proj_bias": _FIRST_RANK_ONLY,
    }
}
"""Plans of our own, by `model_type`, added to what transformers says."""


@dataclass(frozen=True, slots=True)
class TensorParallelRank:
    """One rank among `world` ranks."""

    rank: int
    world: int


@dataclass(frozen=True, slots=True)
class Partition:
    """What this rank keeps of a parameter: `spans` of dimension `dim`, joined. All, if empty."""

    dim: int = 0
    spans: tuple[Span, ...] = ()
    zeroed: bool = False
    """Keep the shape and nothing of the values."""

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The part's shape."""
        if not self.spans:
            return whole
        size = sum(stop - start for start, stop in self.spans)
        return (*whole[: self.dim], size, *whole[self.dim + 1 :])

    def copy_to(self, whole: Any, part: Tensor) -> None:
        """Fill `part` from `whole`, a Tensor or a file's slice; only the spans are read."""
        if self.zeroed:
            part.zero_()
            return
        at = 0
        for start, stop in self.spans or ((0, part.shape[self.dim]),) if part.ndim else ():
            index = (*[slice(None)] * self.dim, slice(start, stop))
            part.narrow(self.dim, at, stop - start).copy_(whole[index])
            at += stop - start
        if not part.ndim:
            part.copy_(whole[...])


WHOLE = Partition()


def tensor_parallel_plan(module: nn.Module, name: str, ranks: TensorParallelRank) -> dict[str, str]:
    """Style of each module and parameter that the plan names, by full name; {} for one rank.

    Raises Fault 4 for an architecture without a plan that cuts its layers.
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
    found = ((n, next((s for p, s in patterns.items() if p.fullmatch(n)), None)) for n in names)
    return {path: style for path, style in found if style is not None}


def partitions(module: nn.Module, name: str, ranks: TensorParallelRank) -> dict[str, Partition]:
    """The cut of every parameter that is not whole, by its full name. Reads shapes only.

    Raises Fault 2 where sizes do not divide by the ranks, Fault 4 for a style not followed.
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
            raise StartupError(4, f"{name} cannot be sharded: {path} ({style}) is no linear layer")
        if style == GATHERED_OUTPUT and part.out_features % ranks.world:
            continue  # every rank computes all of it
        placed = _head_group(module, path, part, name, ranks)
        for leaf, parameter in part.named_parameters(recurse=False):
            bias = leaf == "bias" and style in ROWWISE
            own = _FIRST_RANK_ONLY if bias else style
            yield f"{path}.{leaf}", _partition(own, parameter.shape, path, name, placed)


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
        raise StartupError(4, f"{name} cannot be sharded: its plan asks for {style} at {path}")
    return Partition(dim, (_rank_span(shape[dim], path, ranks),))


def _rank_span(size: int, path: str, ranks: TensorParallelRank) -> Span:
    if size % ranks.world:
        raise StartupError(2, f"{path}: {size} features do not divide by {ranks.world} shards")
    share = size // ranks.world
    return ranks.rank * share, (ranks.rank + 1) * share


def _head_group(
    module: nn.Module, path: str, part: nn.Linear, name: str, ranks: TensorParallelRank
) -> TensorParallelRank:
    """`ranks`, or the fewer groups of ranks that share key/value heads; heads are never split."""
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
            2, f"{name}: the {heads} heads of {path} do not divide by {ranks.world} shards"
        )
    return ranks
