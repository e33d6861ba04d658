"""Quantized checkpoints are served as transformers runs them, or refused by their format's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from shard.errors import StartupError
from shard.loading.load import load
from shard.loading.partition import TensorParallelRank
from shard.loading.quantized import quantization_options
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.reference import generate_greedily
from tests.support.tiny import engine

Model = Callable[..., str]
ASK = RowSpec(tuple(range(5, 25)), 16)


def quantized(folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """The model in `folder` with its tensors replaced by `tensors`."""
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return str(folder)


def mxfp4(folder: Path) -> str:
    """gpt-oss with experts of random four-bit values, 32 of which share a scale."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("up_proj", "down_proj"))]:
        experts, rows, columns = tensors.pop(name).shape
        shape = (experts, columns, rows // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 255, (*shape, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8)
    whole = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"]
    skipped = [*whole, "lm_head"]
    return quantized(folder, {"quant_method": "mxfp4", "modules_to_not_convert": skipped}, tensors)


def fp8(folder: Path) -> str:
    """Llama with projections of eight-bit floats and one scale each."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
    settings = {"weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    return quantized(folder, {"quant_method": "fp8", **settings}, tensors)


@pytest.mark.filterwarnings("ignore")
def test_mxfp4_serves_the_tokens_that_transformers_generates(model: Model, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = mxfp4(copytree(model("gpt-oss-wide"), tmp_path / "model"))
    served = drive(engine(path), [ASK], DrivePlan())
    config = Path(path) / "config.json"
    told = json.loads(config.read_text())
    told["quantization_config"]["dequantize"] = True  # else transformers asks for accelerate
    config.write_text(json.dumps(told))
    assert served == [generate_greedily(path, ASK)]


@pytest.mark.filterwarnings("ignore")
def test_fp8_serves_the_tokens_that_transformers_generates(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    path = fp8(copytree(model("llama"), tmp_path / "model"))
    assert drive(engine(path), [ASK], DrivePlan()) == [generate_greedily(path, ASK)]


@pytest.mark.filterwarnings("ignore")
def test_torchao_int8_serves_the_tokens_that_transformers_generates(
    model: Model, tmp_path: Path
) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    settings = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    packed = AutoModelForCausalLM.from_pretrained(
        model("llama"), dtype=torch.float32, quantization_config=settings
    )
    packed.save_pretrained(tmp_path)
    assert drive(engine(str(tmp_path)), [ASK], DrivePlan()) == [
        generate_greedily(str(tmp_path), ASK)
    ]
    assert drive(engine(str(tmp_path), model("llama")), [ASK], DrivePlan(draft=3)) == [
        generate_greedily(str(tmp_path), ASK)
    ]


class Config:
    """What the check reads of a configuration."""

    def __init__(self, method: str) -> None:
        self.quantization_config = {"quant_method": method}


@pytest.mark.parametrize(
    ("method", "world", "code", "reason"),
    [
        ("gptq", 1, 4, "the format `gptq` is not supported; supported: fp8, mxfp4, torchao"),
        ("mxfp4", 2, 2, "`mxfp4` weights cannot be sharded; serve it with --num-shard 1"),
    ],
)
def test_an_unsupported_format_is_refused_by_name(
    method: str, world: int, code: int, reason: str
) -> None:
    with pytest.raises(StartupError) as caught:
        quantization_options(Config(method), "It", TensorParallelRank(0, world))
    assert (caught.value.code, caught.value.text) == (code, f"It: {reason}")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: Any) -> None:
    monkeypatch.setattr("shard.loading.quantized.find_spec", lambda package: None)
    with pytest.raises(StartupError, match=r"needs the package torchao; .*tgi-laps\[quantized\]"):
        quantization_options(Config("torchao"), "It", TensorParallelRank(0, 1))


def test_a_quantized_model_is_refused_on_two_ranks_before_it_is_read(
    model: Model, tmp_path: Path
) -> None:
    path = mxfp4(copytree(model("gpt-oss-wide"), tmp_path / "model"))
    with pytest.raises(StartupError, match="cannot be sharded"):
        load(path, None, torch.device("cpu"), TensorParallelRank(0, 2), lambda done, total: None)
