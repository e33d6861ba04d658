"""Checks of a model folder that read no weight.

Every check raises StartupError, with one line that names the file and what to do, so that a model
that cannot be served is refused within a second and not after minutes of loading. Only the standard
library is imported: the launcher runs these checks before it starts any process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shard.errors import StartupError
from shard.loading.draft_vocabulary import shared_vocabulary
from shard.loading.model_files import parse_object, read_config, read_object, text_part

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
HEAD_COUNT_KEYS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
"""Names of the number of attention heads in the configurations of different architectures."""
SLOW_TOKENIZER_FILES = ("tokenizer.model", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
"""Files of tokenizers that transformers can convert to `tokenizer.json`."""
HEADER_LENGTH_BYTES = 8
"""Bytes of a safetensors file's first field, the length of its JSON header."""


def check(
    target: Path, draft: Path | None, world: int, without_weights: Collection[Path] = ()
) -> None:
    """Refuse models that `world` shards cannot serve.

    The folders in `without_weights` lack weights that a start would download. Raises StartupError:
    2 if the attention heads cannot be divided, 4 otherwise.
    """
    for folder in (target, draft) if draft else (target,):
        check_architecture(folder, read_config(folder))
        if folder not in without_weights:
            check_weights(folder)
    check_heads(read_config(target), world)
    if draft:
        shared_vocabulary(target, draft)
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
    text = text_part(config)
    layers = {str(layer) for key in _LAYER_KEYS for layer in _as_list(text.get(key))}
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
    text = text_part(config)
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
    for name in _indexed_files(index) if index.exists() else ():
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


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """The offset of a safetensors file's data, and its tensors by name. Raises StartupError(4)."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
        if HEADER_LENGTH_BYTES + length > size:
            raise StartupError(4, f"{file} is truncated within its header; download it again")
        return HEADER_LENGTH_BYTES + length, parse_object(file, stream.read(length))


_LAYER_KEYS = ("layer_types", "layers_block_type", "block_types")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _indexed_files(index: Path) -> list[str]:
    """Names of the files in an index of a checkpoint. Raises StartupError(4)."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise StartupError(4, f"{index} is damaged: `weight_map` must map tensors to files")
    return sorted(set(names.values()))


def _is_in_transformers(kind: str) -> bool:
    """Whether transformers has the architecture; looked up without importing it."""
    spec = find_spec("transformers")
    folders = spec.submodule_search_locations if spec else None
    name = kind.replace("-", "_")
    return any((Path(folder) / "models" / name).is_dir() for folder in folders or ())


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
