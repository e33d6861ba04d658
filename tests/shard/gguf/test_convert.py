"""A converted GGUF file is the model that it was written from: weights, tokens, text, ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.llama import LlamaConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from router.text.chat_template import ChatTemplate
from router.text.tokenizer import Tokenizer
from shard.errors import StartupError
from shard.gguf.convert import convert
from shard.gguf.corrections import llama3_factors
from shard.gguf.text_files import end_token_ids
from shard.wire.protocol import Sampling
from tests.support import tiny
from tests.support.chat_templates import TEMPLATES
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.families import byte_level
from tests.support.gguf_files import write_model
from tests.support.reference import generate_greedily

TOKENIZER = byte_level()
SHAPE: dict[str, Any] = {
    **tiny.SHAPE,
    "vocab_size": TOKENIZER.get_vocab_size(),
    "hidden_size": 64,
    "intermediate_size": 96,
    "bos_token_id": TOKENIZER.get_vocab()["<s>"],
    "eos_token_id": TOKENIZER.get_vocab()["</s>"],
}
"""Rows of 64 or 96 values, which are whole blocks of Q8_0."""
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=32),
    "gemma2": lambda: Gemma2Config(
        **{**SHAPE, "head_dim": 32, "sliding_window": 9, "query_pre_attn_scalar": 256}
    ),
    "gemma3": lambda: Gemma3TextConfig(**{**SHAPE, "head_dim": 32, "sliding_window": 9}),
}
Q8 = gguf.GGMLQuantizationType.Q8_0
PROMPT = RowSpec(tuple(range(40, 70)), 40, Sampling(repetition_penalty=1.3))


def ignore(text: str, percent: int | None) -> None:
    """Drop a report of progress."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each architecture with random weights."""
    root = tmp_path_factory.mktemp("originals")
    return {
        name: Path(tiny.save_model(config(), root / name, 0)) for name, config in CONFIGS.items()
    }


def converted(original: Path, architecture: str, folder: Path, **more: Any) -> Path:
    """The model in `original`, written as GGUF and converted back."""
    file = write_model(original, folder / "model.gguf", architecture, TOKENIZER, **more)
    (folder / "converted").mkdir()
    convert(file, None, ignore, folder / "converted")
    return folder / "converted"


@pytest.mark.parametrize("architecture", CONFIGS)
def test_weights_and_configuration_survive_the_way_through_gguf(
    originals: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    original = originals[architecture]
    folder = converted(original, architecture, tmp_path)
    expected, weights = (load_file(path / "model.safetensors") for path in (original, folder))
    assert weights.keys() == expected.keys()
    exact = not architecture.startswith("gemma")  # their norms are stored plus one
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0 if exact else 1e-6)
    ignored = {"transformers_version", "_name_or_path", "dtype", "pad_token_id"}
    before, after = (AutoConfig.from_pretrained(path).to_dict() for path in (original, folder))
    for field in before.keys() - ignored - {"rms_norm_eps"}:
        assert after.get(field) == before[field], field
    assert after["rms_norm_eps"] == pytest.approx(before["rms_norm_eps"])  # stored as float32


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_converted_model_generates_the_tokens_of_the_original(
    originals: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    folder = converted(originals[architecture], architecture, tmp_path)
    expected = generate_greedily(str(originals[architecture]), PROMPT)
    assert len(set(expected)) >= 5
    assert drive(tiny.engine(str(folder)), [PROMPT], DrivePlan(draft=3)) == [expected]


def test_quantized_weights_are_those_that_ggml_defines(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    original = load_file(originals["llama"] / "model.safetensors")
    folder = converted(originals["llama"], "llama", tmp_path, quantization=Q8)
    name = "model.layers.1.mlp.up_proj.weight"
    packed = gguf.quants.quantize(original[name].numpy(), Q8)
    expected = torch.from_numpy(gguf.quants.dequantize(packed, Q8))
    assert torch.equal(load_file(folder / "model.safetensors")[name], expected)
    assert not torch.equal(original[name], expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_stored_in_the_requested_precision(
    originals: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    file = write_model(originals["llama"], tmp_path / "m.gguf", "llama", TOKENIZER, quantization=Q8)
    convert(file, dtype, ignore, tmp_path)
    stored = {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()}
    assert stored == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    "text",
    [
        "the path",
        " a <s>b</s>",
        "don't  stop\n\n\tnow",
        "2 + 1234 = 1236",
        "世界 😀 naïve",
        "x" * 40,
        "",
    ],
)
@pytest.mark.parametrize("split", ["gpt-2", "default", "smollm"])
def test_texts_have_the_tokens_of_the_original_tokenizer(
    originals: dict[str, Path], tmp_path: Path, text: str, split: str
) -> None:
    metadata = {"tokenizer.ggml.pre": split}
    folder = converted(originals["llama"], "llama", tmp_path, metadata=metadata)
    tokenizer = Tokenizer.load(str(folder))
    assert list(tokenizer.encode(text)) == TOKENIZER.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_split_is_named_in_a_warning(
    originals: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = {"tokenizer.ggml.pre": "brand-new"}
    converted(originals["llama"], "llama", tmp_path, metadata=metadata)
    assert "how `brand-new` splits text is not known" in caplog.text


@pytest.mark.parametrize("name", ["chatml", "inst", "headers", "tools"])
def test_the_chat_template_is_that_of_the_file(
    originals: dict[str, Path], tmp_path: Path, name: str
) -> None:
    metadata = {"tokenizer.chat_template": TEMPLATES[name]}
    folder = converted(originals["llama"], "llama", tmp_path, metadata=metadata)
    template = ChatTemplate.load(str(folder))
    assert template
    assert template.source == TEMPLATES[name]
    assert template.special_tokens["bos_token"] == "<s>"
    assert template.special_tokens["eos_token"] == "</s>"


def test_a_file_without_a_template_gives_a_folder_without_one(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    assert ChatTemplate.load(str(converted(originals["llama"], "llama", tmp_path))) is None


def test_generation_ends_at_the_end_tokens_of_the_file(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    metadata = {"tokenizer.ggml.eot_token_id": 7}
    folder = converted(originals["llama"], "llama", tmp_path, metadata=metadata)
    for name in ("config.json", "generation_config.json"):
        end = json.loads((folder / name).read_text())["eos_token_id"]
        assert end == [TOKENIZER.get_vocab()["</s>"], 7]


@pytest.mark.parametrize(
    ("metadata", "vocabulary", "expected"),
    [
        ({"tokenizer.ggml.eos_token_id": 2}, {}, [2]),
        ({"tokenizer.ggml.eos_token_id": 0}, {}, [0]),
        ({"tokenizer.ggml.eos_token_id": 2}, {"<|im_end|>": 2}, [2]),
        ({"tokenizer.ggml.eos_token_id": 1}, {"<end_of_turn>": 106}, [1, 106]),
        (
            {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eom_token_id": 8},
            {"<|eot_id|>": 9, "eot": 3},
            [1, 8, 9],
        ),
        ({}, {}, []),
    ],
)
def test_end_tokens_are_named_by_metadata_or_known_by_name(
    metadata: dict[str, Any], vocabulary: dict[str, int], expected: list[int]
) -> None:
    assert end_token_ids(metadata, vocabulary) == expected


def test_the_scaled_frequencies_of_llama_3_are_recognized(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    factors = {"rope_freqs.weight": llama3_factors(10000.0, 8, 32.0)}
    folder = converted(originals["llama"], "llama", tmp_path, tensors=factors)
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    assert rope == {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def refusal(
    originals: dict[str, Path], tmp_path: Path, architecture: str = "llama", **more: Any
) -> str:
    with pytest.raises(StartupError) as caught:
        converted(originals[architecture], architecture, tmp_path, **more)
    assert caught.value.code == 4
    assert "\n" not in caught.value.text
    return caught.value.text


@pytest.mark.parametrize(
    ("tensors", "metadata", "named"),
    [
        ({"rope_freqs.weight": [1.0, 2.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]}, {}, "rope_freqs.weight"),
        ({"rope_factors_long.weight": [1.0] * 8}, {}, "longrope"),
        ({}, {"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({}, {"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({}, {"llama.rope.scaling.type": "novel"}, "novel"),
    ],
)
def test_positions_that_cannot_be_expressed_are_refused_by_name(
    originals: dict[str, Path],
    tmp_path: Path,
    tensors: dict[str, Any],
    metadata: dict[str, Any],
    named: str,
) -> None:
    text = refusal(originals, tmp_path, tensors=tensors, metadata=metadata)
    assert f"position embeddings with `{named}` are not read from GGUF files" in text


def test_an_unknown_architecture_is_refused_with_the_file(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    metadata = {"general.architecture": "brandnew"}
    text = refusal(originals, tmp_path, metadata=metadata)
    assert str(tmp_path / "model.gguf") in text
    assert "brandnew" in text


def test_missing_tensors_are_counted_and_one_is_named(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    text = refusal(originals, tmp_path, metadata={"llama.block_count": 4})
    assert "lacks 9 tensors of `llama`, such as model.layers.3." in text


def test_a_full_disk_is_refused_before_anything_is_written(
    originals: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StartupError, match="XDG_CACHE_HOME") as caught:
        converted(originals["llama"], "llama", tmp_path)
    assert caught.value.code == 7
    assert list((tmp_path / "converted").iterdir()) == []


def test_progress_is_reported_while_tensors_are_converted(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    reports: list[tuple[str, int | None]] = []
    file = write_model(originals["llama"], tmp_path / "m.gguf", "llama", TOKENIZER)
    convert(file, None, lambda text, percent: reports.append((text, percent)), tmp_path)
    percents = [percent for _, percent in reports if percent is not None]
    assert percents[0] == 0
    assert percents == sorted(set(percents))
    assert len(percents) > 3
    assert reports[-1] == ("m.gguf: writing the weights", None)
