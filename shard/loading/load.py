"""Loads a model folder on this rank: find the class, refuse, read, partition, verify.

Every failure is a StartupError of one line. Normally the module is built on the meta device and
this rank reads its slices. A checkpoint that is NotSliceable is loaded whole by transformers and
then partitioned in place.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from shard.errors import StartupError, first_line
from shard.loading.collectives import install_collectives
from shard.loading.compatibility import max_positions, refuse_unsupported, verify_logits
from shard.loading.conversion import NotSliceable, converted_sources
from shard.loading.partition import Partition, TensorParallelRank, partitions
from shard.loading.quantized import quantization_options
from shard.loading.token_ids import drop_invalid_ids, eos_ids
from shard.loading.weights import ProgressCallback, Weights, load_parameters, set_parameter
from shard.model.attention_adapters.adapter_table import build_implementation, install_adapter
from shard.model.packed_model import LoadedModel, probe_layer_shapes

_log = logging.getLogger(__name__)


def load(
    path: str,
    dtype: str | None,
    device: torch.device,
    ranks: TensorParallelRank,
    report: ProgressCallback,
) -> LoadedModel:
    """Load the model in folder `path`, partitioned for `ranks`.

    `dtype` None is float32 on a CPU and the checkpoint's own on a GPU. Raises StartupError: 2 if
    the model cannot be divided by the ranks, 4 if it cannot be served or read.
    """
    disable_progress_bar()  # the launcher shows progress
    config = _read_config(path)
    name = refuse_unsupported(config)
    text = config.get_text_config()
    eos = eos_ids(Path(path), getattr(text, "eos_token_id", None), text.vocab_size)
    warnings = (*drop_invalid_ids(text, text.vocab_size), *eos.warnings)
    precision = _resolve_dtype(dtype, config, device)
    unpacking = quantization_options(config, name, ranks)
    if unpacking is not None:
        module = _load_by_transformers(path, config, name, precision, report, **unpacking)
    else:
        module = _load_by_slices(path, config, name, precision, device, ranks, report)
    install_collectives(module.to(device), name, ranks)
    loaded = _describe_loaded(
        text, name, module.eval().requires_grad_(False), device, eos.ids, warnings
    )
    verify_logits(loaded)
    return loaded


def _load_by_slices(
    path: str,
    config: Any,
    name: str,
    dtype: torch.dtype,
    device: torch.device,
    ranks: TensorParallelRank,
    report: ProgressCallback,
) -> nn.Module:
    """Load only this rank's part of every parameter, if the checkpoint allows it."""
    module = _build_without_memory(config, name, dtype)
    kept = partitions(module, name, ranks)
    try:
        _refuse_mixed_precision(module, dtype)
        with Weights(Path(path)) as weights:
            weights.add_converted(converted_sources(module, weights.names))
            load_parameters(module, weights, kept, device, report)
            return module
    except NotSliceable as reason:
        _log.info("%s is loaded by transformers: %s", path, reason)
    module = _load_by_transformers(path, config, name, dtype, report)
    _partition_in_place(module, kept)
    return module


def _describe_loaded(
    text: Any,
    name: str,
    module: nn.Module,
    device: torch.device,
    eos: frozenset[int],
    warnings: tuple[str, ...],
) -> LoadedModel:
    return LoadedModel(
        name=name,
        module=module,
        shapes=probe_layer_shapes(module, name, device),
        dtype=module.get_input_embeddings().weight.dtype,  # type: ignore[operator]
        device=device,
        vocab_size=text.vocab_size,
        max_length=max_positions(text, name),
        eos=eos,
        warnings=warnings,
    )


def _read_config(path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise StartupError(4, f"config.json cannot be read: {first_line(error)}") from error


def _build_without_memory(config: Any, name: str, dtype: torch.dtype) -> nn.Module:
    """The module on the meta device: shapes without memory."""
    try:
        with torch.device("meta"):
            module: nn.Module = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=build_implementation(config)
            )
            install_adapter(module)
    except Exception as error:
        raise StartupError(4, f"{name} cannot be built: {first_line(error)}") from error
    return module


def _refuse_mixed_precision(module: Any, dtype: torch.dtype) -> None:
    """Raises NotSliceable if transformers keeps some parameters in float32."""
    if module._get_dtype_plan(dtype):
        raise NotSliceable(f"some parameters stay in float32 although the model is {dtype}")


def _load_by_transformers(
    path: str,
    config: Any,
    name: str,
    dtype: torch.dtype,
    report: ProgressCallback,
    **options: Any,
) -> nn.Module:
    """Load the whole module; progress is reported only at the start and at the end."""
    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    report(0, size)
    try:
        module: nn.Module = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=build_implementation(config),
            use_safetensors=True,
            **options,
        )
    except Exception as error:
        raise StartupError(
            4, f"the weights of {name} cannot be read: {first_line(error)}"
        ) from error
    install_adapter(module)
    report(size, size)
    return module


def _partition_in_place(module: nn.Module, kept: Mapping[str, Partition]) -> None:
    for name, cut in kept.items():
        whole = module.get_parameter(name).data
        part = torch.empty(cut.shape(tuple(whole.shape)), dtype=whole.dtype)
        cut.copy_to(whole, part)
        set_parameter(module, name, nn.Parameter(part, requires_grad=False))


def _resolve_dtype(dtype: str | None, config: Any, device: torch.device) -> torch.dtype:
    """By default float32 on a CPU, for exactness, and the checkpoint's own dtype on a GPU."""
    if dtype is not None:
        return {
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
            "float32": torch.float32,
        }[dtype]
    if device.type == "cpu" or config.dtype is None:
        return torch.float32
    checkpoint_dtype: torch.dtype = config.dtype
    return checkpoint_dtype
