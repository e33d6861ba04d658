"""The token ids that a model folder's configuration names, checked once against the vocabulary.

What is not an id of the vocabulary is dropped with one warning, so that nothing later has to look
again. Nothing here knows a tokenizer, a weight or a request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_REPR = 60


@dataclass(frozen=True, slots=True)
class EosIds:
    """The end-of-sequence ids of a model, all of them inside its vocabulary."""

    ids: frozenset[int]
    warnings: tuple[str, ...] = ()
    """One line for each value that is not an id of the vocabulary."""


def eos_ids(folder: Path, config_value: Any, vocabulary: int) -> EosIds:
    """The ids of `generation_config.json` in `folder`, or else `config_value` of the model's own.

    Both may be an id, a list of ids or None. An id of 0 is an id. If no id of the generation
    configuration is valid, those of the model are used.
    """
    generation, problem = _generation_value(folder)
    valid, warnings = _split(generation, "generation_config.json", vocabulary)
    if not valid:
        valid, more = _split(config_value, "config.json", vocabulary)
        warnings += more
    return EosIds(frozenset(valid), (*problem, *warnings))


def drop_invalid_ids(text_config: Any, vocabulary: int) -> tuple[str, ...]:
    """Set the padding and beginning ids of `text_config` that are not valid to None.

    A module cannot be built with them, and nothing here needs them. Returns one warning for each.
    """
    warnings = []
    for name in ("bos_token_id", "pad_token_id"):
        value = getattr(text_config, name, None)
        if value is not None and not _is_id(value, vocabulary):
            setattr(text_config, name, None)
            warnings.append(_warning(name, value, "config.json", vocabulary))
    return tuple(warnings)


def _generation_value(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """`eos_token_id` of `generation_config.json`, None without it, and a warning if unreadable."""
    path = folder / "generation_config.json"
    if not path.exists():
        return None, ()
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        return None, (f"generation_config.json is not used, since it is damaged: {error}",)
    if not isinstance(value, dict):
        return None, ("generation_config.json is not used, since it is not a JSON object",)
    return value.get("eos_token_id"), ()


def _split(value: Any, file: str, vocabulary: int) -> tuple[list[int], tuple[str, ...]]:
    """The valid ids in `value`, and a warning for each of the others."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    valid = [id for id in values if _is_id(id, vocabulary)]
    invalid = [id for id in values if not _is_id(id, vocabulary)]
    return valid, tuple(_warning("eos_token_id", id, file, vocabulary) for id in invalid)


def _is_id(value: Any, vocabulary: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary


def _warning(field: str, value: Any, file: str, vocabulary: int) -> str:
    return (
        f"`{field}` {str(value)[:_MAX_REPR]} in {file} is ignored: it is not a token id of the"
        f" model, whose vocabulary has {vocabulary} tokens"
    )
