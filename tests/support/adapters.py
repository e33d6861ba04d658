"""LoRA adapters with random weights for tiny models, and the models that they are merged into."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
}
"""Of an adapter in PEFT's format."""
ALL_LAYERS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()  # noqa: SIM905


def save_adapter(
    model: str, folder: Path, seed: int, rank_of: dict[str, int] | None = None, **fields: Any
) -> Path:
    """Save an adapter for the model in `model` in `folder`, with `fields` in its configuration.

    `rank_of` has the ranks of layers, by the ends of their names, that are not `r`.
    """
    config = {**CONFIG, **fields}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, part in linear_layers(load(model)).items():
        if not _is_target(config["target_modules"], name):
            continue
        ends = (rank for end, rank in (rank_of or {}).items() if name.endswith(end))
        rank = next(ends, config["r"])
        for letter, shape in {
            "A": (rank, part.in_features),
            "B": (part.out_features, rank),
        }.items():
            weight = torch.randn(shape, generator=generator) * 0.3
            tensors[f"base_model.model.{name}.lora_{letter}.weight"] = weight
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merge(model: str, adapter: Path, folder: Path, scales: dict[str, float] | float) -> str:
    """Save the model in `model` with W + scale * B A for every W of `adapter`; return its path.

    `scales` may be by the end of a layer's name.
    """
    module: Any = load(model)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, part in linear_layers(module).items():
        if (down := tensors.get(f"base_model.model.{name}.lora_A.weight")) is None:
            continue
        up = tensors[f"base_model.model.{name}.lora_B.weight"]
        ends = scales if isinstance(scales, dict) else {"": scales}
        scale = next(value for end, value in ends.items() if name.endswith(end))
        part.weight.data += scale * (up @ down)
    module.save_pretrained(folder)
    return str(folder)


def load(model: str) -> nn.Module:
    module: nn.Module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return module


def linear_layers(module: Any) -> dict[str, nn.Linear]:
    """All linear layers but the head, by name."""
    head = module.get_output_embeddings()
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part is not head
    }


def _is_target(targets: str | list[str], name: str) -> bool:
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name.endswith(f".{target}") for target in targets)
