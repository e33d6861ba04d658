"""Which GGUF file a model id names, and whether this installation can convert it.

Decides from names and headers; converts nothing. Imports only the standard library, since the
launcher asks it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from shard.errors import StartupError
from shard.gguf.header import GgufHeader, is_gguf, read_gguf_header

SUFFIX = ".gguf"
REQUIRED_PACKAGES = ("gguf", "accelerate")
"""Packages that transformers needs to read GGUF files; the extra `gguf` has them."""
_PART_NAME = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
"""The end of the name of one part of a split file."""


def find_gguf(model: str) -> Path | None:
    """The GGUF file that `model` names, itself or as the only one of its folder; None if none.

    A folder that has safetensors files is no GGUF model. Raises StartupError: 3 if the file does
    not exist, 4 if it is not a GGUF file, is part of a split one, or its folder has several.
    """
    path = Path(model)
    if path.is_dir():
        return _only_file(path)
    if not path.exists():
        if path.suffix == SUFFIX:
            raise StartupError(3, f"`{model}` does not exist")
        return None
    if not path.is_file() or not is_gguf(path):
        raise StartupError(
            4, f"`{model}` is neither a folder nor a GGUF file; name the folder of the model"
        )
    _refuse_split(path, 1)
    return path


def check_gguf(file: Path) -> GgufHeader:
    """The header of a file that can be converted here.

    Raises StartupError(4) if the file is damaged or split, or if a package is missing.
    """
    header = read_gguf_header(file)
    _refuse_split(file, int(header.metadata.get("split.count", 1)))
    if not header.architecture or not header.tensors:
        raise StartupError(4, f"{file} holds no model: it has no tensors or no architecture")
    missing = [package for package in REQUIRED_PACKAGES if find_spec(package) is None]
    if missing:
        raise StartupError(
            4,
            f"{file}: GGUF files need the packages {' and '.join(REQUIRED_PACKAGES)};"
            " pip install 'tgi-laps[gguf]'",
        )
    return header


def _only_file(folder: Path) -> Path | None:
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files or any(folder.glob("*.safetensors")):
        return None
    for file in files:
        _refuse_split(file, 1)
    if len(files) > 1:
        raise StartupError(
            4, f"{folder} holds {len(files)} GGUF files: {_names(files)}; name one of them"
        )
    return files[0]


def _refuse_split(file: Path, parts: int) -> None:
    if match := _PART_NAME.search(file.name):
        parts = max(parts, int(match[1]))
    if parts > 1:
        raise StartupError(
            4,
            f"{file} is one of {parts} parts of a split GGUF file; join them with"
            " `llama-gguf-split --merge FIRST_PART OUTPUT.gguf`",
        )


def _names(files: Sequence[Path]) -> str:
    shown = [file.name for file in files[:5]]
    return ", ".join(shown) + (", …" if len(files) > len(shown) else "")
