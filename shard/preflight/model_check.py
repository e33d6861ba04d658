"""Whether a rank could serve the models, and what they take.

It decides what a rank decides before it reads a weight, by the same functions, and runs the models
on the meta device. It joins no group, and reserves no memory.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from shard.config import ShardConfig
from shard.engine_parts import choose_device
from shard.loading.draft_vocabulary import shared_vocabulary
from shard.loading.dry_run import ModelSize, dry_run
from shard.loading.partition import TensorParallelRank
from shard.loading.plan import LoadPlan, plan_load
from shard.loading.rope_scaling import RopeScaling
from shard.model.memory import require_one_row

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckedModels:
    """What a check reports about models that can be served."""

    text: str
    """Architecture and precision, for the log."""
    max_length: int
    """Maximum number of tokens of a row."""
    weight_bytes: int
    """Of target and draft, on one rank."""
    kv_bytes_per_token: int
    """Of target and draft, on one rank."""


def check(config: ShardConfig, without_weights: Collection[Path]) -> CheckedModels:
    """Check the models of `config`; those in `without_weights` may lack weights.

    Raises StartupError as `start_engine` does.
    """
    device = choose_device(config)
    ranks = TensorParallelRank(config.rank, config.world)
    models = [_check_model("target", config.model_path, config, device, ranks, without_weights)]
    if config.draft_path is not None and config.speculate:
        whole = TensorParallelRank(0, 1)
        models.append(
            _check_model("draft", config.draft_path, config, device, whole, without_weights)
        )
        if warning := shared_vocabulary(Path(config.model_path), Path(config.draft_path)).warning:
            _log.warning("%s", warning)
    [(target, _), *_] = models
    if config.max_batch_total_tokens is not None:
        require_one_row(config, target.max_length, config.max_batch_total_tokens)
    return CheckedModels(
        text=" drafted for by ".join(_describe(plan) for plan, _ in models),
        max_length=target.max_length,
        weight_bytes=sum(size.weight_bytes for _, size in models),
        kv_bytes_per_token=sum(size.kv_bytes_per_token for _, size in models),
    )


def _check_model(
    role: str,
    path: str,
    config: ShardConfig,
    device: torch.device,
    ranks: TensorParallelRank,
    without_weights: Collection[Path],
) -> tuple[LoadPlan, ModelSize]:
    rope = RopeScaling.from_config(config) if role == "target" else None
    plan = plan_load(path, config.dtype, device, ranks, rope)
    for warning in plan.warnings:
        _log.warning("%s model: %s", role, warning)
    return plan, dry_run(plan, ranks, has_weights=plan.path not in without_weights)


def _describe(plan: LoadPlan) -> str:
    return f"{plan.name} in {str(plan.dtype).removeprefix('torch.')}"
