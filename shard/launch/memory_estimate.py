"""What a model will take of a rank's memory, told from its files' headers and its configuration.

An estimate for people and for `--check`: nothing is loaded and no device is touched. What a rank
really takes is measured by `memory`, once the weights are there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard.errors import StartupError
from shard.loading.checkpoint import read_config, read_header

FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the floating types of safetensors that a precision may replace."""
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GIB, KIB = 1 << 30, 1 << 10


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one rank needs, and what there is."""

    weight_bytes: int
    kv_bytes_per_token: int
    """Of the KV cache, for each token it holds."""
    free_bytes: int

    def __str__(self) -> str:
        return (
            f"weights take {self.weight_bytes / GIB:.2f} GiB of {self.free_bytes / GIB:.1f} GiB"
            f" free for each rank, the KV cache {self.kv_bytes_per_token / KIB:.1f} KiB"
            " for each token"
        )

    def check(self, tokens: int | None) -> None:
        """Raises Fault(6) where the weights, or a cache of `tokens` beside them, do not fit."""
        left = self.free_bytes - self.weight_bytes
        if left <= 0:
            raise StartupError(6, f"{self}; raise `--num-shard` or lower `--dtype`")
        if tokens is not None and tokens * self.kv_bytes_per_token > left:
            most = left // self.kv_bytes_per_token
            raise StartupError(6, f"{self}; lower `--max-batch-total-tokens` to {most} at most")


def estimate_memory(folders: list[Path], dtype: str | None, world: int) -> MemoryEstimate:
    """The need of every rank that serves the models in `folders`; the first is cut, others not."""
    free = _free_device_bytes()
    width = DTYPE_BYTES.get(dtype or ("" if free else "float32"))
    free = free or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // world
    ranks = [world, *[1] * (len(folders) - 1)]
    weights = sum(_weight_bytes(path, width) // n for path, n in zip(folders, ranks, strict=True))
    token = sum(_kv_bytes_per_token(path, width, n) for path, n in zip(folders, ranks, strict=True))
    return MemoryEstimate(weights, token, free)


def _weight_bytes(folder: Path, width: int | None) -> int:
    """Bytes of the files' tensors once their floats are `width` bytes wide."""
    quantised = "quantization_config" in read_config(folder)
    return sum(
        _tensor_bytes(tensor, None if quantised else width)
        for file in folder.glob("*.safetensors")
        for name, tensor in read_header(file)[1].items()
        if name != "__metadata__"
    )


def _tensor_bytes(tensor: dict[str, Any], width: int | None) -> int:
    start, stop = tensor["data_offsets"]
    own = FLOAT_BYTES.get(tensor["dtype"])
    size: int = stop - start
    return size if own is None or width is None else size // own * width


def _kv_bytes_per_token(folder: Path, width: int | None, world: int) -> int:
    """Bytes of keys and values of one token on one of `world` ranks."""
    config = read_config(folder)
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads") or config["n_head"]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    size = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    own = -(-(config.get("num_key_value_heads") or heads) // world)
    return int(2 * layers * own * size * (width or 2))


def _free_device_bytes() -> int | None:
    """Free bytes of the device that has the least; None without an NVIDIA GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = (program, "--query-gpu=memory.free", "--format=csv,noheader,nounits")
    told = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    free = [int(line) << 20 for line in told.stdout.split() if line.isdecimal()]
    return min(free, default=None)
