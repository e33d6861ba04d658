"""How a model folder is loaded on a rank: everything that is decided before a weight is read.

A start loads what `plan_load` returns, and `--check` ends with it, so both refuse the same folders
with the same line. The module is built on the meta device: shapes without memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from shard.errors import StartupError, first_line
from shard.loading.compatibility import max_positions, refuse_unsupported
from shard.loading.partition import Partition, TensorParallelRank, partitions
from shard.loading.quantized import quantization_options
from shard.loading.rope_scaling import RopeScaling, scale_positions
from shard.loading.token_ids import drop_invalid_ids, eos_ids
from shard.model.attention_adapters.adapter_table import build_implementation, install_adapter

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model that can be served as far as its configuration shows."""

    path: Path
    config: Any
    """transformers' configuration of the whole model."""
    name: str
    """The architecture, for messages."""
    dtype: torch.dtype
    module: nn.Module
    """The whole model on the meta device."""
    kept: Mapping[str, Partition]
    """The part that the rank keeps of each parameter that it does not keep whole."""
    unpacking: Mapping[str, Any] | None
    """The arguments with which transformers loads a quantized format; None if it is not one."""
    max_length: int
    """Maximum number of tokens of a row."""
    eos: frozenset[int]
    """End-of-sequence ids, all inside the vocabulary."""
    warnings: tuple[str, ...]
    """What was wrong with the folder and was ignored, one line each."""

    @property
    def text_config(self) -> Any:
        """The part of the configuration for the language model."""
        return self.config.get_text_config()


def plan_load(
    path: str,
    dtype: str | None,
    device: torch.device,
    ranks: TensorParallelRank,
    rope: RopeScaling | None = None,
) -> LoadPlan:
    """Decide how the model in folder `path` is loaded for `ranks`.

    `dtype` None is float32 on a CPU and the checkpoint's own on a GPU. `rope` replaces the scaling
    of the configuration. Raises StartupError: 2 if the model cannot be divided by the ranks or
    scaled, 4 if it cannot be served.
    """
    config = _read_config(path)
    name = refuse_unsupported(config)
    if rope is not None:
        scale_positions(config, name, rope)
    text = config.get_text_config()
    eos = eos_ids(Path(path), getattr(text, "eos_token_id", None), text.vocab_size)
    warnings = (*drop_invalid_ids(text, text.vocab_size), *eos.warnings)
    precision = _resolve_dtype(dtype, config, device)
    unpacking = quantization_options(config, name, ranks)
    module = _build_without_memory(config, name, precision)
    return LoadPlan(
        path=Path(path),
        config=config,
        name=name,
        dtype=precision,
        module=module,
        kept=partitions(module, name, ranks),
        unpacking=unpacking,
        max_length=max_positions(text, name),
        eos=eos.ids,
        warnings=warnings,
    )


def _read_config(path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a configuration's own code may raise anything
        raise StartupError(4, f"config.json cannot be read: {first_line(error)}") from error


def _build_without_memory(config: Any, name: str, dtype: torch.dtype) -> nn.Module:
    """The module on the meta device: shapes without memory.

    Only empty tensors, which weights are, begin there, and none is filled at random. Any other
    function would load torch's compiler there, which takes seconds; what they return is small.
    """
    try:
        with _EmptyOnMeta(), no_init_weights():
            module = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=build_implementation(config)
            )
            module.tie_weights()
            install_adapter(module)
            on_meta: nn.Module = module.to("meta")
    except Exception as error:
        raise StartupError(4, f"{name} cannot be built: {first_line(error)}") from error
    return on_meta


class _EmptyOnMeta(TorchFunctionMode):
    """Inside, `torch.empty` without a device returns a tensor on the meta device."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if function is torch.empty and options.get("device") is None:
            options = {**options, "device": "meta"}
        return function(*args, **options)


def _resolve_dtype(dtype: str | None, config: Any, device: torch.device) -> torch.dtype:
    """By default float32 on a CPU, for exactness, and the checkpoint's own dtype on a GPU."""
    if dtype is not None:
        return _DTYPES[dtype]
    if device.type == "cpu" or config.dtype is None:
        return torch.float32
    checkpoint_dtype: torch.dtype = config.dtype
    return checkpoint_dtype
