"""A rank that finds less memory for a round than it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_empty = torch.empty


def limit_memory(limit: Path) -> None:
    """Refuse workspaces of more bytes than the file `limit` holds; while it is missing, none."""

    def limited_empty(*size: Any, **rest: Any) -> torch.Tensor:
        is_workspace = rest.get("dtype") is torch.uint8
        if is_workspace and limit.exists() and size[0] > int(limit.read_text()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return _empty(*size, **rest)

    torch.empty = limited_empty
