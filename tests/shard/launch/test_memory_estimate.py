"""The memory estimate, from the headers of safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shard.errors import StartupError
from shard.launch import memory_estimate as estimate

CONFIG = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "hidden_size": 64,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """1000 floats of two bytes and 10 integers of eight, on a machine without a GPU."""
    tensors = {
        "a": torch.zeros(1000, dtype=torch.bfloat16),
        "b": torch.zeros(10, dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(estimate, "_free_device_bytes", lambda: None)
    return tmp_path


def test_floats_have_the_width_of_the_dtype_and_integers_their_own(folder: Path) -> None:
    assert estimate.estimate_memory([folder], "bfloat16", 1).weight_bytes == 2080
    assert estimate.estimate_memory([folder], "float32", 1).weight_bytes == 4080
    assert estimate.estimate_memory([folder], None, 1).weight_bytes == 4080  # the CPU's precision


def test_ranks_share_the_target_and_each_holds_the_whole_draft(folder: Path) -> None:
    memory = estimate.estimate_memory([folder, folder], "bfloat16", 2)
    assert memory.weight_bytes == 1040 + 2080
    assert memory.kv_bytes_per_token == 2 * 3 * 8 * 2 * (2 + 4)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        ({"n_head": 4, "n_layer": 3, "n_embd": 32}, 2 * 3 * 4 * 8),
        ({"n_heads": 4, "n_layers": 3, "d_model": 32, "model_type": "mpt"}, 2 * 3 * 4 * 16),
        ({"n_head": 4, "n_layer": 3, "n_embed": 32, "model_type": "bloom"}, 2 * 3 * 4 * 16),
        ({"num_heads": 4, "num_layers": 3, "hidden_size": 32}, 2 * 3 * 4 * 8),
        ({**CONFIG, "model_type": "falcon"}, 2 * 3 * 8),
        ({**CONFIG, "model_type": "falcon", "multi_query": False}, 2 * 3 * 8 * 8),
        ({**CONFIG, "model_type": "falcon", "alibi": True}, 2 * 3 * 8 * 16),
        (
            {**CONFIG, "model_type": "falcon", "new_decoder_architecture": True},
            2 * 3 * 4 * 8,
        ),
        (
            {
                **CONFIG,
                "kv_lora_rank": 8,
                "qk_nope_head_dim": 12,
                "qk_rope_head_dim": 6,
                "v_head_dim": 12,
            },
            2 * 3 * 8 * 18,
        ),
        ({"text_config": {**CONFIG, "head_dim": 16}}, 2 * 3 * 4 * 16),
        ({**CONFIG, "layer_types": ["conv", "full_attention", "conv"]}, 2 * 4 * 8 + 2 * 64),
    ],
)
def test_the_names_and_forms_of_every_architecture_are_understood(
    folder: Path, config: dict[str, object], values: int
) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    assert estimate.estimate_memory([folder], "float16", 1).kv_bytes_per_token == 2 * values


def test_a_configuration_without_a_size_is_refused_by_its_name(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"n_head": 4, "n_layer": 3}))
    with pytest.raises(StartupError, match=r"config\.json lacks `hidden_size`"):
        estimate.estimate_memory([folder], None, 1)


def test_a_gpu_keeps_the_checkpoints_own_precision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_free_device_bytes", lambda: 5000)
    memory = estimate.estimate_memory([folder], None, 1)
    assert (memory.weight_bytes, memory.free_bytes) == (2080, 5000)


def test_a_model_that_does_not_fit_is_refused_with_numbers() -> None:
    estimate.MemoryEstimate(weight_bytes=50, kv_bytes_per_token=1, free_bytes=100).check(50)
    with pytest.raises(StartupError, match="lower `--max-batch-total-tokens` to at most 50"):
        estimate.MemoryEstimate(weight_bytes=50, kv_bytes_per_token=1, free_bytes=100).check(51)
    with pytest.raises(StartupError, match="raise `--num-shard`"):
        estimate.MemoryEstimate(weight_bytes=100, kv_bytes_per_token=1, free_bytes=100).check(None)
