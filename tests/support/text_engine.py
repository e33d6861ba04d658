"""An engine over a vocabulary of real text, for grammars."""

from __future__ import annotations

from pathlib import Path

from transformers.models.llama import LlamaConfig

from shard.engine import Engine
from tests.support import tiny
from tests.support.families import EOS as EOS_TEXT
from tests.support.families import FAMILIES

TOKENIZER = FAMILIES["byte_level"]
VOCABULARY = TOKENIZER.get_vocab_size() + 5
"""The size of the model's vocabulary; its last ids are padding."""
EOS = TOKENIZER.get_vocab()[EOS_TEXT]


def text_engine(folder: str, draft: int | None, eos: int | tuple[int, ...] | None = EOS) -> Engine:
    """An engine in `folder` with the draft of seed `draft`; None is prompt lookup.

    The target has seed 0, so a draft of that seed proposes what the target would say.
    """
    target = _save(folder, 0, eos)
    return tiny.engine(target, None if draft is None else _save(folder, draft, eos))


def _save(folder: str, seed: int, eos: int | tuple[int, ...] | None) -> str:
    ends = list(eos) if isinstance(eos, tuple) else eos
    config = LlamaConfig(**{**tiny.SHAPE, "vocab_size": VOCABULARY, "eos_token_id": ends})
    path = tiny.save_model(config, Path(folder, f"text-{seed}-{eos}"), seed)
    Path(path, "tokenizer.json").write_text(TOKENIZER.to_str())
    return path
