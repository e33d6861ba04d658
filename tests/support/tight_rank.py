"""A shard process that finds less memory for a round than it asks for.

The file named on the command line holds the bytes that there are; while it is missing, enough.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import torch

_limit_file = Path(sys.argv[1])
_empty = torch.empty


def _limited_empty(*size: Any, **rest: Any) -> torch.Tensor:
    if (
        rest.get("dtype") is torch.uint8
        and _limit_file.exists()
        and size[0] > int(_limit_file.read_text())
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return _empty(*size, **rest)


if __name__ == "__main__":
    torch.empty = _limited_empty
    runpy.run_module("shard", run_name="__main__", alter_sys=True)
