"""An inflated model is larger and computes the same function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmark.__main__ import main
from benchmark.models.inflate import inflate
from benchmark.models.shapes import SHAPES, inflated_config, shape_of
from tests.support.paths import DEMO

TOKENS = torch.arange(40).reshape(2, 20) % 50
SIZES = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "rms_norm_eps": 1e-3,
}
"""With queries wider than the hidden width, and an eps large enough to matter."""


def small_model(folder: Path, **changes: Any) -> LlamaForCausalLM:
    """Save a model with random weights, also of its norms, under `folder`."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | changes)))
    model.eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.1, std=0.3)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [2, 3])
def test_logits_are_equal(tmp_path: Path, tied: bool, kv_heads: int) -> None:
    sizes = {"tie_word_embeddings": tied, "num_key_value_heads": kv_heads}
    small = small_model(tmp_path / "small", **sizes)
    arguments = ["--shape", "tiny", "--dtype", "float32"]
    assert main(["inflate", str(tmp_path / "small"), str(tmp_path / "large"), *arguments]) == 0
    large = LlamaForCausalLM.from_pretrained(tmp_path / "large")
    assert shape_of(large.config.to_dict()) == SHAPES["tiny"]
    assert large.num_parameters() > 50 * small.num_parameters()
    with torch.no_grad():
        logits, reference = large(TOKENS).logits, small(TOKENS).logits
    assert reference.std() > 0.1
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)


def test_the_greedy_text_is_that_of_the_small_model(tmp_path: Path) -> None:
    target = tmp_path / "large"
    target.mkdir()
    inflate(DEMO / "target", SHAPES["tiny"], "float32", target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    prompt = tokenizer("The module provides functions that", return_tensors="pt").input_ids
    text, reference = (
        tokenizer.decode(greedy_tokens(folder, prompt)) for folder in (target, DEMO / "target")
    )
    assert text == reference
    assert len(text) > 100


def greedy_tokens(folder: Path, prompt: torch.Tensor) -> Any:
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.generate(prompt, max_new_tokens=40, do_sample=False)[0]


def test_files_that_do_not_depend_on_the_shape_are_copied(tmp_path: Path) -> None:
    small_model(tmp_path / "small")
    (tmp_path / "small" / "tokenizer.json").write_text("{}")
    (tmp_path / "large").mkdir()
    inflate(tmp_path / "small", SHAPES["tiny"], "bfloat16", tmp_path / "large")
    assert (tmp_path / "large" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "large" / "model.safetensors").exists()
    assert json.loads((tmp_path / "large" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_hidden_layers": 9}, "its `layers` is 9, more than the 8 of the shape"),
        ({"head_dim": 24}, "64 is no multiple of its `head_dim`, 24"),
        ({"num_attention_heads": 24}, "its `group` is 8, more than the 4 of the shape"),
        ({"attention_bias": True}, "unknown weight `model.layers.0.self_attn.k_proj.bias`"),
        ({"hidden_act": "gelu"}, "`gelu` is not `silu`"),
    ],
)
def test_a_model_that_cannot_be_inflated_is_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], reason: str
) -> None:
    small_model(tmp_path / "small", **change)
    target = tmp_path / "large"
    assert main(["inflate", str(tmp_path / "small"), str(target), "--shape", "tiny"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"inflate: the model cannot be inflated: {reason}"
    assert not target.exists()


def test_a_folder_without_a_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "small", tmp_path / "large"
    assert main(["inflate", str(source), str(target), "--shape", "tiny"]) == 1
    assert str(source / "config.json") in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize(("name", "billions"), [("1b", 1.2), ("8b", 7.2)])
def test_the_large_shapes_have_the_size_of_their_name(name: str, billions: float) -> None:
    config = LlamaConfig(vocab_size=49152, tie_word_embeddings=True).to_dict()
    sizes = inflated_config(config, shape_of(config), SHAPES[name])
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    assert model.num_parameters() / 1e9 == pytest.approx(billions, abs=0.06)
