"""The tokenizer, chat template and end tokens of a GGUF file, as files of a model folder.

transformers builds the tokenizer from the file's vocabulary. Where a text is split before it is
merged into tokens is not in the file, only its name: it comes from the tables of transformers and
from `_DIGITS_APART`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from shard.errors import StartupError, first_line
from shard.gguf.header import GgufHeader, Value

_log = logging.getLogger(__name__)
_BYTE_LEVEL = "gpt2"
"""The vocabularies whose splits have a name; all others need none."""
_PLAIN = frozenset(("default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"))
"""Names of the split of GPT-2. Source, also of the next tables: llama-vocab.cpp of llama.cpp."""
_DIGITS_APART = frozenset(
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
)
"""Names of the split of GPT-2 with every digit alone."""
_END_FIELDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|return|>", "<turn|>")
"""Tokens that end a turn, also where the metadata does not name them."""


def write_text_files(file: Path, source: Path, header: GgufHeader, folder: Path) -> list[int]:
    """Write the tokenizer and chat template of `file` to `folder`; return the end tokens' ids.

    `source` is a folder that holds the file alone. Raises StartupError(4).
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=file.name)
    except Exception as error:  # any, from a damaged vocabulary
        raise StartupError(
            4, f"{file}: the tokenizer cannot be read: {first_line(error)}"
        ) from error
    _set_split(file, tokenizer.backend_tokenizer, header.metadata)
    tokenizer.save_pretrained(folder)
    return end_token_ids(header.metadata, tokenizer.get_vocab())


def end_token_ids(metadata: Mapping[str, Value], vocabulary: Mapping[str, int]) -> list[int]:
    """The ids that end an answer, the metadata's own end token first."""
    named = [metadata.get(f"tokenizer.ggml.{field}") for field in _END_FIELDS]
    known = [vocabulary.get(token) for token in _END_OF_TURN]
    ids = [int(id) for id in (*named, *known) if id is not None]
    return list(dict.fromkeys(ids))


def _set_split(file: Path, backend: Any, metadata: Mapping[str, Value]) -> None:
    """Correct where text is split, or warn that it is not known."""
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    if metadata.get("tokenizer.ggml.model") != _BYTE_LEVEL or name in GGUF_PRE_TOKENIZER_SPLITS:
        return
    if name in _DIGITS_APART:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif name not in _PLAIN:
        _log.warning(
            "%s: how `%s` splits text is not known; it is split as for GPT-2, which may give the"
            " model other tokens than it was trained on",
            file,
            name,
        )
