"""The JSON files of a model folder, read as objects, or refused in one line that names the file.

Only the standard library is imported: the launcher reads them before it starts any process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shard.errors import StartupError


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`. Raises StartupError(4) if it is missing or damaged."""
    return read_object(folder / "config.json")


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's configuration for the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in the file at `path`. Raises StartupError(4)."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        raise StartupError(4, f"{path} is missing; every model folder needs it") from None
    except OSError as error:
        raise StartupError(4, f"{path} cannot be read: {error.strerror}") from None
    return parse_object(path, body)


def parse_object(path: Path, body: bytes) -> dict[str, Any]:
    """The JSON object `body`, found in the file at `path`. Raises StartupError(4)."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise StartupError(4, f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise StartupError(4, f"{path} is damaged: it must be a JSON object")
    return value
