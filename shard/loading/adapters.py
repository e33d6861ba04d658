"""Loads LoRA adapters in PEFT's format for one model: names and shapes checked, sliced for a rank.

A rank keeps of `lora_A` the input features and of `lora_B` the output features that it keeps of the
layer's own weight. So an adapter's product is a part of the layer's, and is summed or gathered
with it by the same collective.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shard.errors import StartupError
from shard.loading.adapter_config import WEIGHTS_FILE, LoraConfig, read_adapter_config
from shard.loading.partition import Partition
from shard.lora.lora_adapter import AdaptableLayer, Adapter, LoraWeights, Spans

_PREFIX = "base_model.model."
"""Of the names of layers in PEFT's files."""
_SUFFIXES = (".lora_A.weight", ".lora_B.weight")


def adaptable_layers(
    module: nn.Module, kept: Mapping[str, Partition]
) -> Mapping[str, AdaptableLayer]:
    """The linear layers of `module` that adapters may change, by name.

    `kept` is the partition of its parameters. The output head, which sees other tokens than the
    layers, and single experts are not among them.
    """
    head = module.get_output_embeddings()  # type: ignore[operator]
    return {
        name: _adaptable_layer(part, kept.get(f"{name}.weight", Partition()))
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part is not head and ".experts." not in name
    }


def _adaptable_layer(part: nn.Linear, cut: Partition) -> AdaptableLayer:
    inputs, outputs = (cut.spans, ()) if cut.dim == 1 else ((), cut.spans)
    return AdaptableLayer(part.in_features, part.out_features, inputs, outputs)


def load_adapter(
    folder: Path,
    number: int,
    layers: Mapping[str, AdaptableLayer],
    dtype: torch.dtype,
    device: torch.device,
) -> Adapter:
    """The adapter in `folder` as `number`, for a model with `layers`.

    Raises StartupError(4), one line, if it is not supported, damaged, or of another model.
    """
    config, file = read_adapter_config(folder), folder / WEIGHTS_FILE
    try:
        with safe_open(file, framework="pt") as stored:
            names = _adapted_layers(config, file, list(stored.keys()), layers)
            weights = {
                name: _load_layer(config, file, stored, name, layers[name], dtype, device)
                for name in names
            }
    except (SafetensorError, OSError) as error:
        raise StartupError(4, f"{file} cannot be read: {error}") from error
    return Adapter(number, weights)


def _adapted_layers(
    config: LoraConfig, file: Path, stored: list[str], layers: Mapping[str, AdaptableLayer]
) -> list[str]:
    """The names of the adapted layers, once it is certain that the model has them all."""
    unknown = next((name for name in stored if _layer_of(name) is None), None)
    if unknown is not None:
        raise StartupError(4, f"{file}: `{unknown}` is not a LoRA matrix of a linear layer")
    names = dict.fromkeys(filter(None, map(_layer_of, stored)))
    if not names:
        raise StartupError(4, f"{file} holds no tensor")
    for name in names:
        if name not in layers:
            raise StartupError(4, f"{file}: the model has no layer `{name}` that can be adapted")
        if not config.adapts(name):
            raise StartupError(4, f"{file}: `target_modules` does not name its layer `{name}`")
        for suffix in _SUFFIXES:
            if f"{_PREFIX}{name}{suffix}" not in stored:
                raise StartupError(4, f"{file} lacks `{_PREFIX}{name}{suffix}`")
    return list(names)


def _layer_of(tensor: str) -> str | None:
    """The layer that a stored tensor belongs to; None for anything but a LoRA matrix."""
    suffix = next((end for end in _SUFFIXES if tensor.endswith(end)), None)
    if suffix is None or not tensor.startswith(_PREFIX):
        return None
    return tensor[len(_PREFIX) : -len(suffix)]


def _load_layer(
    config: LoraConfig,
    file: Path,
    stored: Any,
    name: str,
    layer: AdaptableLayer,
    dtype: torch.dtype,
    device: torch.device,
) -> LoraWeights:
    rank = config.rank_of(name)
    down = _read(file, stored, f"{_PREFIX}{name}{_SUFFIXES[0]}", (rank, layer.inputs))
    up = _read(file, stored, f"{_PREFIX}{name}{_SUFFIXES[1]}", (layer.outputs, rank))
    kept = _keep(down, layer.input_spans), _keep(up.t(), layer.output_spans) * config.scale_of(name)
    parts = [part.to(device, dtype).contiguous() for part in kept]
    if not all(part.isfinite().all() for part in parts):  # they would reach other rows
        raise StartupError(4, f"{file}: the matrices of `{name}` are not finite in {dtype}")
    return LoraWeights(*parts)


def _read(file: Path, stored: Any, name: str, shape: tuple[int, int]) -> Tensor:
    """The tensor `name` in float32."""
    if (found := tuple(stored.get_slice(name).get_shape())) != shape:
        raise StartupError(4, f"{file}: `{name}` has shape {list(found)}, not {list(shape)}")
    tensor: Tensor = stored.get_tensor(name)
    if not tensor.is_floating_point():
        raise StartupError(4, f"{file}: `{name}` has dtype {tensor.dtype}, not floating point")
    return tensor.float()


def _keep(matrix: Tensor, spans: Spans) -> Tensor:
    """The columns of `matrix` that a rank keeps."""
    return torch.cat([matrix[:, start:stop] for start, stop in spans], 1) if spans else matrix
