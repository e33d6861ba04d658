"""A model folder that cannot work is refused by name, before a weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shard.errors import StartupError
from shard.loading import checkpoint

LLAMA = {"model_type": "llama", "num_attention_heads": 6, "num_key_value_heads": 2}


def tensors(payload: int = 4) -> bytes:
    """A safetensors file of one tensor of `payload` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [payload], "data_offsets": [0, payload]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(payload)


def model(
    folder: Path,
    config: dict[str, Any] = LLAMA,
    vocab: Any = None,
    weights: bytes | None = None,
) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(tensors() if weights is None else weights)
    if vocab is not None:
        tokenizer = {"model": {"vocab": vocab}, "added_tokens": [{"id": 9, "content": "<s>"}]}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def refusal(target: Path, draft: Path | None = None, world: int = 1) -> StartupError:
    with pytest.raises(StartupError) as caught:
        checkpoint.check(target, draft, world)
    assert "\n" not in caught.value.text
    return caught.value


def test_a_valid_pair_passes_and_padded_sizes_may_differ(tmp_path: Path) -> None:
    target = model(tmp_path / "target", LLAMA | {"vocab_size": 16}, {"a": 0})
    draft = model(tmp_path / "draft", LLAMA | {"vocab_size": 32}, {"a": 0})
    checkpoint.check(target, draft, 2)


def test_fewer_kv_heads_than_shards_are_fine_but_heads_must_divide(tmp_path: Path) -> None:
    target = model(tmp_path / "target", vocab={})
    checkpoint.check(target, None, 6)
    fault = refusal(target, world=4)
    assert fault.code == 2
    assert "`num_shard`(4)" in fault.text
    assert "6 attention heads; valid choices: 1, 2, 3, 6" in fault.text


def test_heads_are_found_in_the_text_part_of_the_configuration(tmp_path: Path) -> None:
    nested = {"model_type": "gemma3", "text_config": {"num_attention_heads": 4}}
    assert refusal(model(tmp_path / "target", nested), world=3).code == 2


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba2"},
        {"model_type": "some", "layer_types": ["full_attention", "linear_attention"]},
        {"model_type": "some", "text_config": {"layer_types": ["mamba"]}},
    ],
)
def test_recurrent_state_is_refused_by_name(tmp_path: Path, config: dict[str, Any]) -> None:
    fault = refusal(model(tmp_path / "target", config))
    assert fault.code == 4
    assert f"`{config['model_type']}` keeps a recurrent state" in fault.text


@pytest.mark.parametrize("kind", ["lfm2", "lfm2_moe"])
def test_convolutions_are_refused_unless_their_inputs_can_be_paged(
    tmp_path: Path, kind: str
) -> None:
    layers = {"num_attention_heads": 4, "layer_types": ["conv", "full_attention"]}
    checkpoint.check(model(tmp_path / kind, {"model_type": kind, **layers}, {}), None, 1)
    fault = refusal(model(tmp_path / "other", {"model_type": "other", **layers}))
    assert "`other` keeps a recurrent state" in fault.text


def test_an_encoder_decoder_is_refused_by_name(tmp_path: Path) -> None:
    config = {"model_type": "t5", "is_encoder_decoder": True}
    assert "`t5` is not a causal" in refusal(model(tmp_path / "target", config)).text


def test_remote_code_is_refused_unless_transformers_has_the_architecture(tmp_path: Path) -> None:
    checkpoint.check(model(tmp_path / "known", LLAMA | {"auto_map": {}}, {}), None, 1)
    fault = refusal(model(tmp_path / "own", {"model_type": "nobodys", "auto_map": {}}))
    assert fault.code == 4
    assert "config.json requires the model's own code" in fault.text


def test_pickled_weights_are_refused_with_a_remedy(tmp_path: Path) -> None:
    target = model(tmp_path / "target")
    (target / "model.safetensors").rename(target / "pytorch_model.bin")
    fault = refusal(target)
    assert fault.code == 4
    assert "save_pretrained" in fault.text


@pytest.mark.parametrize("weights", [tensors()[:-1], tensors() + b"x", tensors()[:12], b""])
def test_truncated_or_padded_weights_are_refused_with_the_file(
    tmp_path: Path, weights: bytes
) -> None:
    fault = refusal(model(tmp_path / "target", weights=weights))
    assert fault.code == 4
    assert "model.safetensors" in fault.text


def test_a_header_with_wrong_offsets_is_refused(tmp_path: Path) -> None:
    header = b'{"w": {"data_offsets": "far"}}'
    weights = len(header).to_bytes(8, "little") + header
    assert "no valid offsets for `w`" in refusal(model(tmp_path / "target", weights=weights)).text


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {"w": 1}}])
def test_an_index_that_names_no_files_is_refused(tmp_path: Path, index: dict[str, Any]) -> None:
    target = model(tmp_path / "target")
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "`weight_map` must map tensors to files" in refusal(target).text


def test_a_missing_file_that_the_index_names_is_named(tmp_path: Path) -> None:
    target = model(tmp_path / "target")
    index = {"weight_map": {"w": "model-00002-of-00002.safetensors"}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors is missing" in refusal(target).text


@pytest.mark.parametrize("body", ["{", "[]"])
def test_a_damaged_configuration_is_named(tmp_path: Path, body: str) -> None:
    target = model(tmp_path / "target")
    (target / "config.json").write_text(body)
    assert "config.json is damaged" in refusal(target).text


def test_a_folder_without_configuration_is_named(tmp_path: Path) -> None:
    assert "config.json is missing" in refusal(tmp_path).text


@pytest.mark.parametrize(
    ("present", "cure"),
    [
        ((), "copy it from the repository of the model"),
        (("README.md", "tokenizer_config.json"), "copy it from the repository of the model"),
        (("tokenizer.model",), "save_pretrained(folder)` of transformers"),
        (("vocab.json", "merges.txt"), "save_pretrained(folder)` of transformers"),
        (("spiece.model",), "save_pretrained(folder)` of transformers"),
        (("sentencepiece.bpe.model",), "save_pretrained(folder)` of transformers"),
    ],
)
def test_a_missing_tokenizer_is_refused_with_the_way_to_get_one(
    tmp_path: Path, present: tuple[str, ...], cure: str
) -> None:
    target = model(tmp_path / "target")
    for name in present:
        (target / name).write_text("{}")
    fault = refusal(target)
    assert fault.code == 4
    assert fault.text.startswith(f"{target / 'tokenizer.json'} is missing; ")
    assert cure in fault.text


def test_a_draft_needs_no_tokenizer(tmp_path: Path) -> None:
    target = model(tmp_path / "target", LLAMA | {"vocab_size": 16}, {"a": 0})
    checkpoint.check(target, model(tmp_path / "draft", LLAMA | {"vocab_size": 16}), 1)
