"""Loads a model folder on this rank as its plan says: read, partition, verify.

Every failure is a StartupError of one line. Normally this rank reads its slices into the plan's
module. A checkpoint that is NotSliceable is loaded whole by transformers and then partitioned in
place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from shard.errors import StartupError, first_line
from shard.loading.adapters import adaptable_layers
from shard.loading.collectives import install_collectives
from shard.loading.compatibility import refuse_hidden_window, verify_logits
from shard.loading.conversion import NotSliceable, converted_sources
from shard.loading.partition import Partition, TensorParallelRank
from shard.loading.plan import LoadPlan, plan_load
from shard.loading.rope_scaling import RopeScaling
from shard.loading.weights import ProgressCallback, Weights, load_parameters, set_parameter
from shard.model.attention_adapters.adapter_table import build_implementation, install_adapter
from shard.model.packed_model import LoadedModel, layer_shapes, probe_attention

_log = logging.getLogger(__name__)


def load(
    path: str,
    dtype: str | None,
    device: torch.device,
    ranks: TensorParallelRank,
    report: ProgressCallback,
    rope: RopeScaling | None = None,
) -> LoadedModel:
    """Load the model in folder `path`, partitioned for `ranks`.

    `dtype` None is float32 on a CPU and the checkpoint's own on a GPU. Raises StartupError as
    `plan_load` does, and 4 if the weights cannot be read.
    """
    disable_progress_bar()  # the launcher shows progress
    plan = plan_load(path, dtype, device, ranks, rope)
    if plan.unpacking is not None:
        module = _load_by_transformers(plan, report, **plan.unpacking)
    else:
        module = _load_by_slices(plan, device, report)
    install_collectives(module.to(device), plan.name, ranks)
    loaded = _describe_loaded(plan, module.eval().requires_grad_(False), device)
    verify_logits(loaded)
    return loaded


def _load_by_slices(plan: LoadPlan, device: torch.device, report: ProgressCallback) -> nn.Module:
    """Load only this rank's part of every parameter, if the checkpoint allows it."""
    try:
        with sliced_weights(plan) as weights:
            load_parameters(plan.module, weights, plan.kept, device, report)
            return plan.module
    except NotSliceable as reason:
        _log.info("%s is loaded by transformers: %s", plan.path, reason)
    module = _load_by_transformers(plan, report)
    _partition_in_place(module, plan.kept)
    return module


@contextmanager
def sliced_weights(plan: LoadPlan) -> Iterator[Weights]:
    """The stored tensors under the names of the parameters of `plan`.

    Raises NotSliceable if only transformers can read them, StartupError(4) for a damaged file.
    """
    _refuse_mixed_precision(plan.module, plan.dtype)
    with Weights(plan.path) as weights:
        weights.add_converted(converted_sources(plan.module, weights.names))
        yield weights


def _describe_loaded(plan: LoadPlan, module: nn.Module, device: torch.device) -> LoadedModel:
    probe = probe_attention(module, plan.name, device)
    refuse_hidden_window(plan.text_config, plan.name, probe)
    return LoadedModel(
        name=plan.name,
        module=module,
        shapes=layer_shapes(module, plan.name, probe),
        dtype=module.get_input_embeddings().weight.dtype,  # type: ignore[operator]
        device=device,
        vocab_size=plan.text_config.vocab_size,
        max_length=plan.max_length,
        eos=plan.eos,
        warnings=plan.warnings,
        adaptable=adaptable_layers(plan.module, plan.kept),
    )


def _refuse_mixed_precision(module: Any, dtype: torch.dtype) -> None:
    """Raises NotSliceable if transformers keeps some parameters in float32."""
    if module._get_dtype_plan(dtype):
        raise NotSliceable(f"some parameters stay in float32 although the model is {dtype}")


def _load_by_transformers(plan: LoadPlan, report: ProgressCallback, **options: Any) -> nn.Module:
    """Load the whole module; progress is reported only at the start and at the end."""
    size = sum(file.stat().st_size for file in plan.path.glob("*.safetensors"))
    report(0, size)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            plan.path,
            output_loading_info=True,
            config=plan.config,
            dtype=plan.dtype,
            attn_implementation=build_implementation(plan.config),
            use_safetensors=True,
            **options,
        )
    except Exception as error:
        raise StartupError(
            4, f"the weights of {plan.name} cannot be read: {first_line(error)}"
        ) from error
    module: nn.Module
    module, info = loaded
    if missing := sorted(info["missing_keys"]):  # transformers would fill them at random
        raise StartupError(
            4, f"the weights lack `{missing[0]}`, which the architecture needs; download them again"
        )
    install_adapter(module)
    report(size, size)
    return module


def _partition_in_place(module: nn.Module, kept: Mapping[str, Partition]) -> None:
    for name, cut in kept.items():
        whole = module.get_parameter(name).data
        part = torch.empty(cut.shape(tuple(whole.shape)), dtype=whole.dtype)
        cut.copy_to(whole, part)
        set_parameter(module, name, nn.Parameter(part, requires_grad=False))
