"""Checks of a model folder that read no weight.

Every check raises StartupError, with one line that names the file and what to do, so that a model
that cannot be served is refused within a second and not after minutes of loading. Only the standard
library is imported: the launcher runs these checks before it starts any process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shard.errors import StartupError

RECURRENT_MODEL_TYPES = frozenset(
    "bailing_hybrid bamba falcon_h1 falcon_mamba glm5_next granitemoehybrid jamba"  # noqa: SIM905
    " kimi_linear mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe"
    " qwen3_next qwen4_exp recurrent_gemma rwkv xlstm zamba zamba2 zaya".split()
)
"""Values of `model_type` whose layers keep a state that cannot be rolled back after a draft."""
RECURRENT_LAYER_TYPES = frozenset(
    ("linear_attention", "mamba", "mamba2", "conv", "recurrent", "hybrid", "hybrid_sliding")
)
PAGED_CONVOLUTION_MODEL_TYPES = frozenset(("lfm2", "lfm2_moe"))
"""Values of `model_type` whose `conv` layers are served: their inputs are stored by position."""
MIN_SHARED_VOCABULARY = 0.5
"""Fraction of the smaller vocabulary that draft and target must share, or drafting is useless."""
HEAD_COUNT_KEYS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
"""Names of the number of attention heads in the configurations of different architectures."""
SLOW_TOKENIZER_FILES = ("tokenizer.model", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
"""Files of tokenizers that transformers can convert to `tokenizer.json`."""
HEADER_LENGTH_BYTES = 8
"""Bytes of a safetensors file's first field, the length of its JSON header."""


def check(target: Path, draft: Path | None, world: int, *, weights: bool = True) -> None:
    """Refuse models that `world` shards cannot serve.

    Without `weights`, weight files may be missing. Raises StartupError: 2 if the attention heads
    cannot be divided, 4 otherwise.
    """
    for folder in (target, draft) if draft else (target,):
        check_architecture(folder, read_config(folder))
        if weights or any(folder.glob("*.safetensors")):
            check_weights(folder)
    check_heads(read_config(target), world)
    if draft:
        draft_token_ids(target, draft)
    check_tokenizer(target)


def check_architecture(folder: Path, config: dict[str, Any]) -> None:
    """Refuse remote code, recurrent state and encoder-decoders. Raises StartupError(4)."""
    kind = str(config.get("model_type"))
    if "auto_map" in config and not _is_in_transformers(kind):
        raise StartupError(
            4,
            f"{folder / 'config.json'} requires the model's own code (`auto_map`), which is never"
            f" run; `{kind}` is not an architecture of transformers",
        )
    text = text_config(config)
    layers = {str(layer) for key in _LAYER_KEYS for layer in text.get(key) or ()}
    kinds = {kind, str(text.get("model_type"))}
    if kinds & PAGED_CONVOLUTION_MODEL_TYPES:
        layers.discard("conv")
    if kinds & RECURRENT_MODEL_TYPES or layers & RECURRENT_LAYER_TYPES:
        raise StartupError(
            4,
            f"{folder / 'config.json'}: `{kind}` keeps a recurrent state (state space or linear"
            " attention), which cannot be rolled back after a draft; choose a model that has none",
        )
    if config.get("is_encoder_decoder"):
        raise StartupError(4, f"{folder / 'config.json'}: `{kind}` is not a causal language model")


def check_heads(config: dict[str, Any], world: int) -> None:
    """Refuse a number of attention heads that `world` does not divide; KV heads may be fewer."""
    text = text_config(config)
    heads = next((text[key] for key in HEAD_COUNT_KEYS if key in text), None)
    if isinstance(heads, int) and heads % world:
        choices = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise StartupError(
            2,
            f"`num_shard`({world}) must divide the model's {heads} attention heads;"
            f" valid choices: {choices}",
        )


def check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, or with a missing or truncated file."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise StartupError(
            4,
            f"{folder} holds no *.safetensors file; pickled weights are refused, since loading"
            " them can run code: convert them with `save_pretrained` of transformers",
        )
    index = folder / "model.safetensors.index.json"
    for name in set(_read_json(index)["weight_map"].values()) if index.exists() else ():
        if not (folder / name).exists():
            raise StartupError(4, f"{folder / name} is missing, although {index.name} names it")
    for file in files:
        _check_file_size(file)


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without `tokenizer.json`, with the way to get one. Raises StartupError(4)."""
    if (folder / "tokenizer.json").exists():
        return
    if any((folder / name).exists() for name in SLOW_TOKENIZER_FILES):
        cure = (
            "write it with `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` of"
            " transformers, which converts the tokenizer files that are there"
        )
    else:
        cure = "copy it from the repository of the model, or of the model it was trained from"
    raise StartupError(4, f"{folder / 'tokenizer.json'} is missing; {cure}")


def draft_token_ids(target: Path, draft: Path) -> dict[int, int] | None:
    """Map target ids to draft ids for the tokens that both have; None if the ids are the same.

    `vocab_size` may differ, since models pad it; it is compared only if a folder has no
    `tokenizer.json`. Raises StartupError(4) if the vocabularies share too few tokens.
    """
    first, second = read_vocabulary(target), read_vocabulary(draft)
    if first is None or second is None:
        sizes = [text_config(read_config(folder)).get("vocab_size") for folder in (target, draft)]
        if sizes[0] != sizes[1]:
            raise StartupError(
                4, f"the draft's vocabulary ({sizes[1]}) is not the target's ({sizes[0]})"
            )
        return None
    if first == second:
        return None
    shared = first.keys() & second.keys()
    if len(shared) < MIN_SHARED_VOCABULARY * min(len(first), len(second)):
        piece, _ = min(first.items() ^ second.items(), key=lambda item: (item[1], item[0]))
        raise StartupError(
            4,
            f"the draft's vocabulary ({len(second)} tokens) shares {len(shared)} with the target's"
            f" ({len(first)}): {piece!r} is {_describe_id(second, piece)} in the draft,"
            f" {_describe_id(first, piece)} in the target; choose a draft of the same family",
        )
    return {first[piece]: second[piece] for piece in shared}


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """The ids of all tokens in `tokenizer.json`, including added ones; None without the file."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = _read_json(path)
    pieces: Any = tokenizer["model"]["vocab"]
    if isinstance(pieces, list):  # Unigram: the id is the index in the list
        pieces = {piece: id for id, (piece, _) in enumerate(pieces)}
    added = tokenizer.get("added_tokens") or ()
    return {**pieces, **{token["content"]: token["id"] for token in added}}


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`. Raises StartupError(4) if it is missing or damaged."""
    return _read_json(folder / "config.json")


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of the configuration for the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """The offset of a safetensors file's data, and its tensors by name. Raises StartupError(4)."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
        if HEADER_LENGTH_BYTES + length > size:
            raise StartupError(4, f"{file} is truncated within its header; download it again")
        return HEADER_LENGTH_BYTES + length, _parse_object(file, stream.read(length))


_LAYER_KEYS = ("layer_types", "layers_block_type", "block_types")


def _is_in_transformers(kind: str) -> bool:
    """Whether transformers has the architecture; looked up without importing it."""
    spec = find_spec("transformers")
    folders = spec.submodule_search_locations if spec else None
    name = kind.replace("-", "_")
    return any((Path(folder) / "models" / name).is_dir() for folder in folders or ())


def _describe_id(pieces: dict[str, int], piece: str) -> str:
    return str(pieces[piece]) if piece in pieces else "absent"


def _check_file_size(file: Path) -> None:
    """Refuse a safetensors file whose size differs from what its header implies."""
    size = file.stat().st_size
    start, tensors = read_header(file)
    expected = start + max(_data_ends(file, tensors), default=0)
    if size != expected:
        raise StartupError(
            4, f"{file} has {size} bytes, its header implies {expected}; download it again"
        )


def _data_ends(file: Path, tensors: dict[str, Any]) -> Iterator[int]:
    for name, tensor in tensors.items():
        if name == "__metadata__":
            continue
        try:
            yield int(tensor["data_offsets"][1])
        except (TypeError, KeyError, IndexError, ValueError):
            raise StartupError(4, f"{file}: the header has no valid offsets for `{name}`") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parse_object(path, path.read_bytes())
    except FileNotFoundError:
        raise StartupError(4, f"{path} is missing; every model folder needs it") from None


def _parse_object(path: Path, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise StartupError(4, f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise StartupError(4, f"{path} is damaged: it must be a JSON object")
    return value
