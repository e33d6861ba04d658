"""Tensor parallelism on plain tensors: the process group, and the collectives of a plan.

`partition` says what a rank keeps of each parameter. Here modules get the hooks that combine the
parts: an all-reduce after a row-wise module and after experts, a gather after a head that must
return the whole vocabulary. All ranks gather identical bits and sample the same tokens, so tokens
need no broadcast; the digests in Acks verify it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shard.loading.partition import (
    GATHERED_OUTPUT,
    ROWWISE,
    SPLIT_INPUT,
    TensorParallelRank,
    tensor_parallel_plan,
)

_COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""A dead peer is noticed at once; a peer that hangs is detected by the router."""
_ALL_REDUCED = (*ROWWISE, "all_reduce", "moe_tp_experts")


def join_process_group(ranks: TensorParallelRank, rendezvous: str, device: torch.device) -> None:
    """Join the process group of all ranks through the file `rendezvous`; loopback only."""
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


def max_over_ranks(seconds: float, ranks: TensorParallelRank, device: torch.device) -> float:
    """The largest of all ranks' `seconds`, the same on every rank."""
    return _reduce(seconds, dist.ReduceOp.MAX, ranks, device)


def sum_over_ranks(figure: float, ranks: TensorParallelRank, device: torch.device) -> float:
    """The sum of all ranks' `figure`, the same on every rank."""
    return _reduce(figure, dist.ReduceOp.SUM, ranks, device)


def all_agree(agrees: bool, device: torch.device) -> bool:
    """Whether `agrees` is true on every rank; one small all-reduce."""
    vote = torch.tensor(int(agrees), device=device)
    dist.all_reduce(vote, dist.ReduceOp.MIN)
    return bool(vote.item())


def install_collectives(module: nn.Module, name: str, ranks: TensorParallelRank) -> None:
    """Add hooks to `module` so that its parts compute what the whole module would.

    Raises as `tensor_parallel_plan` does.
    """
    for path, style in tensor_parallel_plan(module, name, ranks).items():
        part = next((part for key, part in module.named_modules() if key == path), None)
        if part is None:
            continue  # a parameter, whose module has its own entry
        if style in SPLIT_INPUT:
            part.register_forward_pre_hook(_split_input_hook(ranks))
        if style in _ALL_REDUCED:
            part.register_forward_hook(_all_reduce)
        elif style == GATHERED_OUTPUT and part.out_features % ranks.world == 0:
            part.register_forward_hook(_gather_output_hook(ranks.world))


def _reduce(
    figure: float,
    operation: dist.ReduceOp.RedOpType,
    ranks: TensorParallelRank,
    device: torch.device,
) -> float:
    """All ranks' `figure` combined by `operation`; one small all-reduce if there are several."""
    if ranks.world == 1:
        return figure
    combined = torch.tensor(figure, dtype=torch.float64, device=device)
    dist.all_reduce(combined, operation)
    return combined.item()


def _split_input_hook(ranks: TensorParallelRank) -> Callable[[nn.Module, Any], tuple[Tensor]]:
    """A hook for a row-wise module whose input is complete on every rank."""

    def split(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].chunk(ranks.world, dim=-1)[ranks.rank],)

    return split


def _all_reduce(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    dist.all_reduce(output)
    return output


def _gather_output_hook(world: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def gather(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        parts = [torch.empty_like(output) for _ in range(world)]
        dist.all_gather(parts, output.contiguous())
        return torch.cat(parts, dim=-1)

    return gather
