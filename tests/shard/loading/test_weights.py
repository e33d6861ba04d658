"""Weights read slice by slice are transformers' own, bit for bit; a file that lies is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from shard.errors import StartupError
from shard.loading.conversion import TensorSource, converted_sources
from shard.loading.partition import Partition, TensorParallelRank, partitions
from shard.loading.weights import Weights, load_parameters
from tests.support import tiny

Model = Callable[..., str]
CPU = torch.device("cpu")


def read(
    path: Path, dtype: torch.dtype = torch.float32, ranks: TensorParallelRank | None = None
) -> tuple[nn.Module, list[tuple[int, int]]]:
    """The module of folder `path` and what was told of its bytes."""
    told: list[tuple[int, int]] = []
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=dtype)
    kept: dict[str, Partition] = partitions(module, "it", ranks) if ranks else {}
    with Weights(path) as weights:
        weights.add_converted(converted_sources(module, weights.names))
        load_parameters(module, weights, kept, CPU, lambda done, total: told.append((done, total)))
    return module, told


def values(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}


def fault(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        read(path)
    assert caught.value.code == 4
    assert "\n" not in caught.value.text
    return caught.value.text


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    """A model of one's own, to be spoilt."""
    return copytree(model("llama"), tmp_path / "model")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


OWN_BUFFERS_AND_TIES = (
    *("bloom-six", "falcon-groups", "gptj", "gpt-neo", "mpt-clipped", "stablelm"),
    *("lfm2", "llama4"),
)
"""Architectures with adapters, among them those with computed buffers and tied heads."""


@pytest.mark.parametrize("name", [*tiny.PAGED, *tiny.ALSO_SERVED, *OWN_BUFFERS_AND_TIES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_value_is_the_one_that_transformers_loads(
    model: Model, name: str, dtype: torch.dtype
) -> None:
    path = Path(model(name))
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    module, told = read(path, dtype)
    wanted, found = values(reference), values(module)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert value.dtype == found[key].dtype, key
        assert torch.equal(value, found[key]), key
    assert len(list(module.parameters())) == len(list(reference.parameters()))  # ties are kept
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("name", ["bloom-six", "gpt2", "falcon-groups"])
def test_names_without_the_prefix_of_the_base_model_are_found(
    model: Model, tmp_path: Path, name: str
) -> None:
    folder = copytree(model(name), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    bare = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    expected, found = values(read(Path(model(name)))[0]), values(read(folder)[0])
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_several_files_are_found_through_their_index(model: Model, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(model("llama"))
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = values(read(tmp_path)[0])
    assert all(torch.equal(value, found[key]) for key, value in values(whole).items())


def test_a_rank_reads_only_its_part(model: Model) -> None:
    path = Path(model("llama"))
    _, whole = read(path)
    shares = [read(path, ranks=TensorParallelRank(rank, 2))[1][-1][1] for rank in (0, 1)]
    assert shares[0] == shares[1]
    assert shares[0] < 0.7 * whole[-1][1]  # embeddings and norms are on both


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_a_rank_reads_only_its_part_of_every_expert(
    model: Model, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read_values = Path(model(name)), [0]

    class Counting:
        def __init__(self, whole: Any) -> None:
            self.get_shape, self.get_dtype, self._whole = whole.get_shape, whole.get_dtype, whole

        def __getitem__(self, index: Any) -> Tensor:
            part: Tensor = self._whole[index]
            read_values[0] += part.numel()
            return part

    opened = TensorSource.open

    def counted(own: TensorSource, slices: Callable[[str], Any]) -> Any:
        return opened(own, lambda part: Counting(slices(part)) if own.stacked else slices(part))

    monkeypatch.setattr(TensorSource, "open", counted)
    module, _ = read(path)
    whole = values(module)
    everything, read_values[0] = read_values[0], 0
    parts = [read(path, ranks=TensorParallelRank(rank, 2))[0] for rank in (0, 1)]
    experts = [key for key in whole if ".experts." in key]
    assert read_values[0] == everything == sum(whole[key].numel() for key in experts)
    for rank, part in enumerate(map(values, parts)):
        kept = partitions(module, "it", TensorParallelRank(rank, 2))
        for key in experts:
            wanted = torch.empty(kept[key].shape(tuple(whole[key].shape)))
            kept[key].copy_to(whole[key], wanted)
            assert torch.equal(part[key], wanted), key


def test_a_missing_expert_is_an_error(model: Model, tmp_path: Path) -> None:
    folder = copytree(model("mixtral"), tmp_path / "model")
    gone = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    rewrite(folder, lambda tensors: tensors.pop(gone))
    text = fault(folder)
    assert "`model.layers.1.mlp.experts.gate_up_proj` cannot be read" in text
    assert "the experts do not have the same shapes" in text


def test_a_tensor_of_another_shape_is_named_with_its_file(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}))
    assert "model.safetensors: `model.norm.weight` has shape [7], not [32]" in fault(folder)


def test_integers_are_refused_as_weights(folder: Path) -> None:
    ones = torch.ones(32, dtype=torch.int8)
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": ones}))
    assert "model.safetensors: `model.norm.weight` has dtype I8" in fault(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("model.norm.weight"))
    assert "lack `model.norm.weight`" in fault(folder)


@pytest.mark.parametrize("keep", [0.5, 0.001])
def test_a_truncated_file_is_named(folder: Path, keep: float) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    assert str(file) in fault(folder)


def test_a_missing_file_that_the_index_names_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    assert "holds neither" in fault(folder)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert "model-1.safetensors is missing" in fault(folder)
    index.write_text("{}")
    assert "index.json is damaged" in fault(folder)
