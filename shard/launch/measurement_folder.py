"""Where the measurements of ranks are kept: the operator's folder, or one in the XDG cache.

Decides only the path. What lies in the folder is for `shard.loading.measurement_cache`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shard.cache_folder import cache_folder


def measurement_folder(setting: str | None, environment: Mapping[str, str]) -> Path | None:
    """Where measurements are kept: `setting`, else a folder in the XDG cache; None for `none`."""
    if setting is not None:
        return None if setting == "none" else Path(setting).resolve()
    return cache_folder(environment) / "measurements"
