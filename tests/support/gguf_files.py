"""GGUF files for tests: tiny models as llama.cpp's converter writes them, and headers by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

STRING, ARRAY = 8, 9
CONTROL = 3
"""The token type of special tokens."""
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}
"""The architectures that `write_model` can write."""
FIELDS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "vocab_size": "vocab_size",
}
"""Names of `config.json` by the metadata that llama.cpp's converter writes from them."""


def header(
    metadata: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], int, int]] = ()
) -> bytes:
    """A header by hand; each tensor has a name, a shape, a type and an offset."""
    entries = [_text(name) + _value(value) for name, value in metadata.items()]
    table = [
        _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        for name, shape, kind, offset in tensors
    ]
    start = b"GGUF" + struct.pack("<IQQ", 3, len(table), len(entries))
    content = start + b"".join(entries) + b"".join(table)
    return content + bytes(-len(content) % 32)


def write_model(
    folder: Path,
    file: Path,
    architecture: str,
    tokenizer: Tokenizer,
    *,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: Mapping[str, str | int | float] = {},
    tensors: Mapping[str, Any] = {},
) -> Path:
    """Write the model in `folder` and a byte-level `tokenizer` to `file`.

    Matrices are stored with `quantization`. `metadata` and `tensors` are written too; metadata
    with the value "" is left out.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, architecture)
    values = {
        **_model_metadata(architecture, config),
        **_special_tokens(tokenizer),
        **metadata,
    }
    for name, value in values.items():
        _add(writer, name, value)
    _add_vocabulary(writer, tokenizer)
    for name, weights in _tensors(folder, architecture, config).items():
        kind = quantization if weights.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for name, weights in tensors.items():
        writer.add_tensor(name, np.asarray(weights, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _model_metadata(architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        f"{architecture}.{name}": config[field]
        for name, field in FIELDS.items()
        if config.get(field) is not None
    }
    rope = config.get("rope_parameters") or {}
    values[f"{architecture}.rope.freq_base"] = rope.get("full_attention", rope)["rope_theta"]
    values[f"{architecture}.attention.layer_norm_rms_epsilon"] = config["rms_norm_eps"]
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(name):
            values[f"{architecture}.{name}"] = config[name]
    return values


def _special_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = tokenizer.get_vocab()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": ids["<s>"],
        "tokenizer.ggml.eos_token_id": ids["</s>"],
    }


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())
    special = {token["id"] for token in model["added_tokens"]}
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_token_list([name for name, _ in names])
    writer.add_token_types([CONTROL if id in special else 1 for _, id in names])
    writer.add_token_merges([" ".join(pair) for pair in model["model"]["merges"]])


def _tensors(folder: Path, architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], config["num_hidden_layers"])
    tensors = {}
    for name, weights in load_file(folder / "model.safetensors").items():
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            weights = _interleaved(weights, config[heads])
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            weights = weights + 1
        tensors[str(names.get_name(name, try_suffixes=(".weight", ".bias")))] = weights
    return tensors


def _interleaved(weights: Any, heads: int) -> Any:
    """Rows of a projection in the order in which llama.cpp rotates them."""
    rows, columns = weights.shape
    halves = weights.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, str):
        if value:
            writer.add_string(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_uint32(name, value)


def _value(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<IQ", 10, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", STRING) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
        case _:
            return struct.pack(f"<IIQ{len(value)}i", ARRAY, 5, len(value), *value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
