"""What loading would find out, as far as that is possible without weights.

The module of a plan runs on the meta device, where tensors have shapes and no values; names and
shapes of stored tensors are compared by the headers of their files. Logits are not compared: that
takes weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch

from shard.attention.interface import AttentionProbe
from shard.attention.kv_cache import PAGE_SIZE, LayerShape, bytes_per_page
from shard.errors import StartupError
from shard.loading.compatibility import refuse_hidden_window
from shard.loading.conversion import NotSliceable
from shard.loading.load import sliced_weights
from shard.loading.partition import WHOLE, TensorParallelRank
from shard.loading.plan import LoadPlan
from shard.loading.weights import check_parameters, partition_bytes
from shard.model.packed_model import layer_shapes, probe_attention

_log = logging.getLogger(__name__)
_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes that one rank needs for a model."""

    weight_bytes: int
    kv_bytes_per_token: int
    """Keys and values of one token in all layers; 0 if only weights can show it."""


def dry_run(plan: LoadPlan, ranks: TensorParallelRank, *, has_weights: bool) -> ModelSize:
    """Refuse what `load` would refuse; return the size of the model on one of `ranks`.

    Key/value heads are divided between ranks, but never split. Raises StartupError.
    """
    if has_weights and plan.unpacking is None:
        _check_stored_tensors(plan)
    probe = _probe(plan)
    shapes = _checked_shapes(plan, probe) if probe is not None else ()
    parts = [replace(shape, heads=-(-shape.heads // ranks.world)) for shape in shapes]
    return ModelSize(_weight_bytes(plan), _kv_bytes_per_token(parts, plan.dtype))


def _checked_shapes(plan: LoadPlan, probe: AttentionProbe) -> tuple[LayerShape, ...]:
    refuse_hidden_window(plan.text_config, plan.name, probe)
    return layer_shapes(plan.module, plan.name, probe)


def _kv_bytes_per_token(shapes: list[LayerShape], dtype: torch.dtype) -> int:
    return bytes_per_page(shapes, dtype) // PAGE_SIZE if shapes else 0


def _weight_bytes(plan: LoadPlan) -> int:
    """Bytes of the parameters, or of the files of a format that stays packed."""
    if plan.unpacking is not None and not plan.unpacking:
        return sum(file.stat().st_size for file in plan.path.glob("*.safetensors"))
    return sum(
        partition_bytes(plan.kept.get(name, WHOLE), parameter)
        for name, parameter in plan.module.named_parameters()
    )


def _check_stored_tensors(plan: LoadPlan) -> None:
    try:
        with sliced_weights(plan) as weights:
            check_parameters(plan.module, weights)
    except NotSliceable:
        return  # transformers compares them when it reads them


def _probe(plan: LoadPlan) -> AttentionProbe | None:
    """What one forward of the module shows; None if that depends on values, as in some routers.

    Experts compute all tokens in one batch, since which expert gets which token depends on values.
    """
    module = plan.module
    if module._can_set_experts_implementation():  # type: ignore[operator]
        module.set_experts_implementation("batched_mm")  # type: ignore[operator]
    try:
        return probe_attention(module, plan.name, _META)
    except StartupError as error:
        if "meta" not in str(error.__cause__).lower():
            raise
        _log.info("%s cannot run without weights: %s", plan.name, error.__cause__)
        return None
