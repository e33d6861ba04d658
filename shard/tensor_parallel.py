"""Tensor parallelism on plain tensors, from the model's own plan.

transformers names for each module how its weight is cut (`tp_plan`, layer numbers as `*`). We cut
the parameters in place and hook the two collectives that a plan implies: an all-reduce after a
row-wise module, a gather after a head that must return the whole vocabulary. Embeddings and all
unlisted parameters are replicated, and so are key/value heads where there are fewer than ranks.
Ranks gather identical bits and sample alike, so tokens need no broadcast; Acks carry a digest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shard.errors import Fault

_COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""A dead peer is seen at once; a hung one is the router's watchdog's to find."""
_REPLICATED = {"replicated_with_grad_allreduce", "embedding_rowwise"}
_KV_PROJECTIONS = ("k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Ranks:
    """One rank among `world` ranks."""

    rank: int
    world: int


def connect(ranks: Ranks, rendezvous: str, device: torch.device) -> None:
    """Join the group of all ranks through the file `rendezvous`; loopback only."""
    if ranks.world == 1:
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{rendezvous}",
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=_COLLECTIVE_TIMEOUT,
    )


def slowest(seconds: float, ranks: Ranks, device: torch.device) -> float:
    """The largest of all ranks' `seconds`, the same on every rank."""
    if ranks.world == 1:
        return seconds
    figure = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(figure, dist.ReduceOp.MAX)
    return figure.item()


def cut(module: nn.Module, name: str, ranks: Ranks) -> None:
    """Keep only this rank's share of `module`'s parameters and hook its collectives.

    Raises Fault 4 for an architecture without a plan or with a part of it that we cannot follow.
    """
    if ranks.world == 1:
        return
    plan: dict[str, str] = getattr(module, "tp_plan", None) or {}
    if not any(style.startswith("rowwise") for style in plan.values()):
        raise Fault(4, f"{name} has no tensor-parallel plan; serve it with --num-shard 1")
    heads = _Heads.of(module, ranks)
    for path, part in module.named_modules():
        style = next((s for key, s in plan.items() if _matches(key, path)), None)
        if style is not None and style not in _REPLICATED:
            _apply(style, part, path, heads, name)


@dataclass(frozen=True, slots=True)
class _Heads:
    """How attention heads fall on ranks."""

    ranks: Ranks
    kv_heads: int

    @classmethod
    def of(cls, module: nn.Module, ranks: Ranks) -> _Heads:
        config: Any = module.config.get_text_config()  # type: ignore[union-attr, operator]
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return cls(ranks, kv_heads)

    def rows(self, path: str, size: int) -> slice:
        """The output features of a column-wise module that this rank keeps."""
        rank, world = self.ranks.rank, self.ranks.world
        if path.endswith(_KV_PROJECTIONS) and self.kv_heads < world:
            rank, world = rank * self.kv_heads // world, self.kv_heads
        if size % world:
            raise Fault(2, f"{path}: {size} output features do not divide by {world} shards")
        return slice(rank * size // world, (rank + 1) * size // world)


def _apply(style: str, part: nn.Module, path: str, heads: _Heads, name: str) -> None:
    if not isinstance(part, nn.Linear):
        raise Fault(4, f"{name} cannot be sharded: {path} ({style}) is no linear layer")
    if style == "colwise":
        _keep_rows(part, heads.rows(path, part.out_features))
    elif style in ("rowwise", "rowwise_split_input"):
        columns = _keep_columns(part, heads.ranks)
        if style == "rowwise_split_input":  # its input is whole on every rank
            part.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., columns],))
        part.register_forward_hook(_all_reduce)
    elif style == "colwise_gather_output":
        if part.out_features % heads.ranks.world == 0:
            _keep_rows(part, heads.rows(path, part.out_features))
            part.register_forward_hook(_gatherer(heads.ranks.world))
    else:
        raise Fault(4, f"{name} cannot be sharded: its plan asks for {style} at {path}")


def _keep_rows(part: nn.Linear, rows: slice) -> None:
    part.weight = nn.Parameter(part.weight[rows].clone(), requires_grad=False)
    if part.bias is not None:
        part.bias = nn.Parameter(part.bias[rows].clone(), requires_grad=False)


def _keep_columns(part: nn.Linear, ranks: Ranks) -> slice:
    """The columns kept. A row-wise module sums over ranks, so only rank 0 adds the bias."""
    if part.in_features % ranks.world:
        raise Fault(2, f"{part.in_features} input features do not divide by {ranks.world} shards")
    size = part.in_features // ranks.world
    columns = slice(ranks.rank * size, (ranks.rank + 1) * size)
    part.weight = nn.Parameter(part.weight[:, columns].clone(), requires_grad=False)
    if ranks.rank:
        part.register_parameter("bias", None)
    return columns


def _all_reduce(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    dist.all_reduce(output)
    return output


def _gatherer(world: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def gather(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        parts = [torch.empty_like(output) for _ in range(world)]
        dist.all_gather(parts, output.contiguous())
        return torch.cat(parts, dim=-1)

    return gather


def _matches(key: str, path: str) -> bool:
    """Whether plan key `model.layers.*.mlp.up_proj` names the module at `path`."""
    return re.fullmatch(re.escape(key).replace(r"\*", r"\d+"), path) is not None
