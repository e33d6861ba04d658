"""The folder of this project in the XDG cache (XDG Base Directory Specification).

Decides only the path; what lies in the folder is for its parts to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The folder for an `environment`; a relative XDG_CACHE_HOME is ignored."""
    base = environment.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "text-generation-laps"
