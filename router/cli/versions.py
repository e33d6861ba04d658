"""Versions and devices, for `--env` and bug reports. Imports no heavy library."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "triton", "aiohttp", "pydantic")


def describe() -> Iterator[str]:
    """One line per version or device."""
    yield f"tgi-laps {_installed_version('tgi-laps')}"
    yield f"Python {platform.python_version()} on {platform.platform()}"
    yield from (f"{name} {_installed_version(name)}" for name in LIBRARIES)
    yield from _gpus() or ["no NVIDIA GPU"]


def _installed_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = (program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    return result.stdout.strip().splitlines()
