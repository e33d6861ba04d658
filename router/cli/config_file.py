"""A file of settings: TOML, a key for each flag, written `max_batch_size` or `max-batch-size`.

A flag and a variable win over it. What `--print-config` writes is such a file again, whole but
for secrets.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

RawValue = str | list[str]
"""A value as the command line would give it; a list where the flag may be repeated."""


def load(path: str) -> dict[str, RawValue]:
    """The settings in a file, by field name. Raises ValueError of one line."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as fault:
        raise ValueError(f"`config`: {path} cannot be read: {fault.strerror}") from None
    except ValueError as fault:
        raise ValueError(f"`config`: {path} is not TOML: {fault}") from None
    return {key.replace("-", "_"): _to_raw(key, value) for key, value in table.items()}


def dump(*configs: Any) -> Iterator[str]:
    """Lines of a file that says the same as `configs`; what is unset stands in a comment."""
    for config in configs:
        yield f"# {type(config).__name__}"
        for item in fields(config):
            value = getattr(config, item.name)
            if not item.repr:
                yield f"# {item.name} is secret and {'not ' if value is None else ''}set"
            elif value is None:
                yield f"# {item.name} is not set"
            else:
                yield f"{item.name} = {json.dumps(value, ensure_ascii=False)}"


def _to_raw(key: str, value: object) -> RawValue:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case [*items] if all(isinstance(item, str) for item in items):
            return [str(item) for item in items]
    raise ValueError(f"`{key}`: a string, number, boolean or array of strings is expected")
