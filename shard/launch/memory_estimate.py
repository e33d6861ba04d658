"""Estimates the memory that a rank needs from the files' headers and the model's configuration.

For `--check` only: no weight is loaded and no device is used. The memory that a running rank may
use is measured by `shard.model.memory`, once the weights are loaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard.errors import StartupError
from shard.loading.attention_sizes import attention_sizes
from shard.loading.checkpoint import read_config, read_header

FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the safetensors dtypes that `dtype` converts."""
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GIB, KIB = 1 << 30, 1 << 10


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one rank needs and has."""

    weight_bytes: int
    kv_bytes_per_token: int
    """Bytes of keys and values per token, of target and draft together."""
    free_bytes: int

    def __str__(self) -> str:
        return (
            f"weights take {self.weight_bytes / GIB:.2f} of {self.free_bytes / GIB:.1f} GiB free"
            f" per rank, and the KV cache takes {self.kv_bytes_per_token / KIB:.1f} KiB per token"
        )

    def check(self, tokens: int | None) -> None:
        """Raises StartupError(6) if the weights and a KV cache of `tokens` tokens do not fit."""
        available = self.free_bytes - self.weight_bytes
        if available <= 0:
            raise StartupError(6, f"{self}; raise `--num-shard` or choose a smaller `--dtype`")
        if tokens is not None and tokens * self.kv_bytes_per_token > available:
            limit = available // self.kv_bytes_per_token
            raise StartupError(6, f"{self}; lower `--max-batch-total-tokens` to at most {limit}")


def estimate_memory(folders: list[Path], dtype: str | None, world: int) -> MemoryEstimate:
    """Estimate for each of `world` ranks, which share the first of `folders` and hold the others.

    `dtype` is the precision of the run; None for the checkpoint's own on a GPU, float32 on a CPU.
    """
    free = _free_device_bytes()
    width = DTYPE_BYTES.get(dtype or ("" if free else "float32"))
    free = free or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // world
    ranks = [world, *[1] * (len(folders) - 1)]
    weights = sum(_weight_bytes(path, width) // n for path, n in zip(folders, ranks, strict=True))
    token = sum(_kv_bytes_per_token(path, width, n) for path, n in zip(folders, ranks, strict=True))
    return MemoryEstimate(weights, token, free)


def _weight_bytes(folder: Path, width: int | None) -> int:
    """Bytes of a model's tensors after its floats are converted to `width` bytes each."""
    quantized = "quantization_config" in read_config(folder)
    return sum(
        _tensor_bytes(tensor, None if quantized else width)
        for file in folder.glob("*.safetensors")
        for name, tensor in read_header(file)[1].items()
        if name != "__metadata__"
    )


def _tensor_bytes(tensor: dict[str, Any], width: int | None) -> int:
    start, stop = tensor["data_offsets"]
    stored_width = FLOAT_BYTES.get(tensor["dtype"])
    size: int = stop - start
    return size if stored_width is None or width is None else size // stored_width * width


def _kv_bytes_per_token(folder: Path, width: int | None, world: int) -> int:
    """Bytes of one token's keys and values on one of `world` ranks."""
    sizes = attention_sizes(read_config(folder))
    rank_heads = -(-sizes.kv_heads // world)
    values = 2 * sizes.layers * rank_heads * sizes.head_dim + sizes.convolved
    return values * (width or 2)


def _free_device_bytes() -> int | None:
    """The smallest number of free bytes on any NVIDIA GPU; None if there is no GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = (program, "--query-gpu=memory.free", "--format=csv,noheader,nounits")
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    free = [int(line) << 20 for line in result.stdout.split() if line.isdecimal()]
    return min(free, default=None)
