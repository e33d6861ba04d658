"""What is read of a PEFT adapter, and in which line an adapter that cannot be served is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shard.errors import StartupError
from shard.loading.adapter_config import read_adapter_config
from shard.loading.adapters import load_adapter
from shard.lora.lora_adapter import AdaptableLayer, Adapter
from tests.support.adapters import linear_layers, load, save_adapter

Model = Callable[..., str]
LAYER = "model.layers.1.self_attn.q_proj"
A, B = (f"base_model.model.{LAYER}.lora_{letter}.weight" for letter in "AB")


def load_for(model: str, folder: Path, dtype: torch.dtype = torch.float32) -> Adapter:
    layers = {
        name: AdaptableLayer(part.in_features, part.out_features)
        for name, part in linear_layers(load(model)).items()
    }
    return load_adapter(folder, 3, layers, dtype, torch.device("cpu"))


def refusal(model: str, folder: Path) -> str:
    with pytest.raises(StartupError) as error:
        load_for(model, folder)
    assert error.value.code == 4
    assert "\n" not in error.value.text
    return error.value.text


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({}, 6 / 4),
        ({"use_rslora": True}, 6 / sqrt(4)),
        ({"lora_alpha": 2.5}, 2.5 / 4),
        ({"alpha_pattern": {"q_proj": 10}}, 10 / 4),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 10}}, 6 / 4),
        ({"alpha_pattern": {r"layers.[12].*": 8}}, 8 / 4),
    ],
)
def test_an_adapter_is_scaled_as_its_configuration_says(
    model: Model, tmp_path: Path, fields: dict[str, Any], scale: float
) -> None:
    folder = save_adapter(model("llama"), tmp_path / "a", 0, **fields)
    stored = load_file(folder / "adapter_model.safetensors")
    weights = load_for(model("llama"), folder).weights[LAYER]
    assert torch.equal(weights.down, stored[A])
    assert torch.allclose(weights.up, scale * stored[B].t())


def test_ranks_may_differ_by_layer(model: Model, tmp_path: Path) -> None:
    folder = save_adapter(
        model("llama"), tmp_path / "a", 0, {"v_proj": 7}, rank_pattern={"v_proj": 7}
    )
    adapter = load_for(model("llama"), folder)
    assert len(adapter.weights[LAYER].down) == 4
    assert adapter.rank == 7


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["q_proj"], 3),
        ("all-linear", 21),
        (r".*\.[02]\..*(gate|up)_proj", 4),
        (["layers.1.mlp.up_proj"], 1),
    ],
)
def test_targets_are_names_a_regular_expression_or_all(
    model: Model, tmp_path: Path, targets: Any, count: int
) -> None:
    folder = save_adapter(model("llama"), tmp_path / "a", 0, target_modules=targets)
    assert len(load_for(model("llama"), folder).weights) == count


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"peft_type": "IA3"}, "`peft_type` 'IA3' is not supported, only 'LORA'"),
        ({"bias": "all"}, "`bias` 'all' is not supported"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` ['lm_head'] is not supported"),
        ({"use_dora": True}, "`use_dora` True is not supported"),
        ({"fan_in_fan_out": True}, "`fan_in_fan_out` True is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the model's own weights"),
        ({"r": 0}, "`r` is 0, which is not valid"),
        ({"lora_alpha": "much"}, "`lora_alpha` is 'much', which is not valid"),
        ({"target_modules": None}, "`target_modules` is None, which is not valid"),
        ({"target_modules": "("}, "`target_modules` is '(', which is not valid"),
        ({"rank_pattern": {"q_proj": "x"}}, "`rank_pattern` is {'q_proj': 'x'}"),
        ({"r": 5}, "has shape [4, 32], not [5, 32]"),
        ({"target_modules": ["k_proj"]}, "`target_modules` does not name its layer"),
    ],
)
def test_an_unsupported_adapter_is_refused_by_name(
    model: Model, tmp_path: Path, fields: dict[str, Any], text: str
) -> None:
    folder = save_adapter(model("llama"), tmp_path / "a", 0)
    change_config(folder, **fields)
    assert text in refusal(model("llama"), folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensors: tensors.pop(B), f"lacks `{B}`"),
        (lambda tensors: tensors.clear(), "holds no tensor"),
        (lambda tensors: tensors.update({"other": torch.ones(1)}), "`other` is not a LoRA matrix"),
        (lambda tensors: tensors[A].fill_(torch.inf), "are not finite"),
        (lambda tensors: tensors.update({A: tensors[A].int()}), "has dtype torch.int32"),
        (
            lambda tensors: tensors.update({A.replace("q_proj", "qkv_proj"): tensors[A].clone()}),
            "the model has no layer `model.layers.1.self_attn.qkv_proj` that can be adapted",
        ),
    ],
)
def test_damaged_weights_are_refused_by_name(
    model: Model, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], text: str
) -> None:
    folder = save_adapter(model("llama"), tmp_path / "a", 0)
    change_weights(folder, change)
    assert text in refusal(model("llama"), folder)


def test_an_adapter_of_another_model_is_refused(model: Model, tmp_path: Path) -> None:
    folder = save_adapter(model("qwen3"), tmp_path / "a", 0)
    assert "has shape [64, 4], not [32, 4]" in refusal(model("llama"), folder)


def test_a_truncated_file_is_refused(model: Model, tmp_path: Path) -> None:
    file = save_adapter(model("llama"), tmp_path / "a", 0) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} cannot be read" in refusal(model("llama"), file.parent)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(model: Model, tmp_path: Path, name: str) -> None:
    folder = save_adapter(model("llama"), tmp_path / "a", 0)
    (folder / name).unlink()
    with pytest.raises(StartupError, match=f"{name} is missing"):
        read_adapter_config(folder)


def test_matrices_that_overflow_in_half_precision_are_refused(model: Model, tmp_path: Path) -> None:
    folder = save_adapter(model("llama"), tmp_path / "a", 0, lora_alpha=1e7)
    with pytest.raises(StartupError, match=r"not finite in torch\.float16"):
        load_for(model("llama"), folder, torch.float16)
