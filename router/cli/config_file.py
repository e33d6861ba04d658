"""The configuration file: TOML with one key per flag, `max_batch_size` or `max-batch-size`.

Flags and environment variables override it. `--print-config` writes a file that `--config` reads
back to the same configuration, except for secrets.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

RawValue = str | list[str]
"""A value as the command line would pass it; a list for a flag that may be repeated."""


def load(path: str) -> dict[str, RawValue]:
    """Read the values of a configuration file, by field name.

    Raises ValueError, with a message of one line, for a file that cannot be read or parsed.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"`config`: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"`config`: {path} is not valid TOML: {error}") from None
    return {key.replace("-", "_"): _to_raw(key, value) for key, value in table.items()}


def dump(*configs: Any) -> Iterator[str]:
    """The lines of a configuration file with the values of `configs`.

    Fields that are secret or not set become comments.
    """
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
    raise ValueError(f"`{key}` must be a string, a number, a boolean or an array of strings")
