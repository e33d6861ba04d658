"""What can be said of a model folder without reading a weight.

Every check raises `Fault`, with one line that names the file and the cure, so that a model that
cannot work is refused in a second and not after minutes of loading. Standard library alone: the
launcher runs these checks before any process exists.
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
    " kimi_linear lfm2 lfm2_moe mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe"
    " qwen3_next qwen4_exp recurrent_gemma rwkv xlstm zamba zamba2 zaya".split()
)
"""Values of `model_type` whose layers carry a state that cannot be rewound after a draft."""
RECURRENT_LAYER_TYPES = frozenset(
    ("linear_attention", "mamba", "mamba2", "conv", "recurrent", "hybrid", "hybrid_sliding")
)
MIN_SHARED_VOCABULARY = 0.5
"""Part of the smaller vocabulary that a draft must share with its target to be of use (ours)."""
HEADER_LENGTH_BYTES = 8
"""Bytes of a safetensors file's first field, the length of its JSON header."""


def check(target: Path, draft: Path | None, world: int, *, weights: bool = True) -> None:
    """Refuse what `world` shards cannot serve. Raises Fault(2) for heads, Fault(4) for the rest.

    Without `weights`, files that are not there yet are not missed.
    """
    for folder in (target, draft) if draft else (target,):
        check_architecture(folder, read_config(folder))
        if weights or any(folder.glob("*.safetensors")):
            check_weights(folder)
    check_heads(read_config(target), world)
    if draft:
        draft_token_ids(target, draft)


def check_architecture(folder: Path, config: dict[str, Any]) -> None:
    """Refuse remote code, recurrent state and encoder-decoders, by name."""
    kind = str(config.get("model_type"))
    if "auto_map" in config and not _is_in_transformers(kind):
        raise StartupError(
            4,
            f"{folder / 'config.json'} asks for code of its own (`auto_map`), which is never run;"
            f" `{kind}` must be an architecture of transformers",
        )
    text = _text_config(config)
    layers = {str(layer) for key in _LAYER_KEYS for layer in text.get(key) or ()}
    if {
        kind,
        str(text.get("model_type")),
    } & RECURRENT_MODEL_TYPES or layers & RECURRENT_LAYER_TYPES:
        raise StartupError(
            4,
            f"{folder / 'config.json'}: `{kind}` keeps a recurrent state (state space or linear"
            " attention), which cannot be rewound after a draft; serve a model with attention only",
        )
    if config.get("is_encoder_decoder"):
        raise StartupError(4, f"{folder / 'config.json'}: `{kind}` is not a causal language model")


def check_heads(config: dict[str, Any], world: int) -> None:
    """Every rank needs the same number of attention heads; KV heads may be fewer than ranks."""
    heads = _text_config(config).get("num_attention_heads", _text_config(config).get("n_head"))
    if isinstance(heads, int) and heads % world:
        choices = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise StartupError(
            2,
            f"`num_shard`({world}) must divide the model's {heads} attention heads;"
            f" valid choices: {choices}",
        )


def check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, with a missing part, or with a cut one."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise StartupError(
            4,
            f"{folder} holds no *.safetensors file; pickled weights are refused, since reading"
            " them can run code: convert them with `save_pretrained` of transformers",
        )
    index = folder / "model.safetensors.index.json"
    for name in set(_read_json(index)["weight_map"].values()) if index.exists() else ():
        if not (folder / name).exists():
            raise StartupError(4, f"{folder / name} is missing, although {index.name} names it")
    for file in files:
        _check_file_size(file)


def draft_token_ids(target: Path, draft: Path) -> dict[int, int] | None:
    """The draft's id of each target id whose piece both have; None where equal ids are equal.

    `vocab_size` may differ, since models pad it; it is compared only where a folder has no
    `tokenizer.json`. Raises Fault(4) if the smaller vocabulary shares too little with the other.
    """
    first, second = read_vocabulary(target), read_vocabulary(draft)
    if first is None or second is None:
        sizes = [_text_config(read_config(folder)).get("vocab_size") for folder in (target, draft)]
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
    """Piece to id of `tokenizer.json`, added tokens included; None without such a file."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = _read_json(path)
    pieces: Any = tokenizer["model"]["vocab"]
    if isinstance(pieces, list):  # Unigram: the id is the place in the list
        pieces = {piece: place for place, (piece, _) in enumerate(pieces)}
    added = tokenizer.get("added_tokens") or ()
    return {**pieces, **{token["content"]: token["id"] for token in added}}


def read_config(folder: Path) -> dict[str, Any]:
    """The model's configuration. Raises Fault(4) for one that is missing or damaged."""
    return _read_json(folder / "config.json")


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where a safetensors file's data begin, and its tensors by name. Raises Fault(4)."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
        if HEADER_LENGTH_BYTES + length > size:
            raise StartupError(4, f"{file} is cut short within its header; fetch it again")
        return HEADER_LENGTH_BYTES + length, _parse_object(file, stream.read(length))


_LAYER_KEYS = ("layer_types", "layers_block_type", "block_types")


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of the configuration that speaks of the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def _is_in_transformers(kind: str) -> bool:
    """Whether transformers has the architecture itself; looked up without importing it."""
    found = find_spec("transformers")
    places = found.submodule_search_locations if found else None
    return any((Path(place) / "models" / kind.replace("-", "_")).is_dir() for place in places or ())


def _describe_id(pieces: dict[str, int], piece: str) -> str:
    return str(pieces[piece]) if piece in pieces else "absent"


def _check_file_size(file: Path) -> None:
    """A safetensors file is exactly its header and the bytes that the header speaks of."""
    size = file.stat().st_size
    start, tensors = read_header(file)
    expected = start + max(_data_ends(file, tensors), default=0)
    if size != expected:
        raise StartupError(
            4, f"{file} has {size} bytes, its header says {expected}; fetch it again"
        )


def _data_ends(file: Path, tensors: dict[str, Any]) -> Iterator[int]:
    for name, tensor in tensors.items():
        if name == "__metadata__":
            continue
        try:
            yield int(tensor["data_offsets"][1])
        except (TypeError, KeyError, IndexError, ValueError):
            raise StartupError(4, f"{file}: the header does not say where `{name}` lies") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parse_object(path, path.read_bytes())
    except FileNotFoundError:
        raise StartupError(4, f"{path} is missing; a model folder holds it") from None


def _parse_object(path: Path, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise StartupError(4, f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise StartupError(4, f"{path} is damaged: an object is expected")
    return value
