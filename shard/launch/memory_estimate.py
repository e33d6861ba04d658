"""Compares the memory that a rank needs with the memory that is free.

For `--check` only, and without a device library. The memory that a running rank may use is measured
by `shard.model.memory`, once the weights are loaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from shard.errors import StartupError

GIB, KIB = 1 << 30, 1 << 10


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one rank needs and has."""

    weight_bytes: int
    kv_bytes_per_token: int
    """Bytes of keys and values per token, of target and draft together; 0 if not known."""
    free_bytes: int

    def __str__(self) -> str:
        cache = f", and the KV cache takes {self.kv_bytes_per_token / KIB:.1f} KiB per token"
        return (
            f"weights take {self.weight_bytes / GIB:.2f} of {self.free_bytes / GIB:.1f} GiB free"
            f" per rank{cache if self.kv_bytes_per_token else ''}"
        )

    def check(self, tokens: int | None) -> None:
        """Raises StartupError(6) if the weights and a KV cache of `tokens` tokens do not fit."""
        available = self.free_bytes - self.weight_bytes
        if available <= 0:
            raise StartupError(6, f"{self}; raise `--num-shard` or choose a smaller `--dtype`")
        if tokens is not None and tokens * self.kv_bytes_per_token > available:
            limit = available // self.kv_bytes_per_token
            raise StartupError(6, f"{self}; lower `--max-batch-total-tokens` to at most {limit}")


def estimate_memory(weight_bytes: int, kv_bytes_per_token: int, world: int) -> MemoryEstimate:
    """Estimate for each of `world` ranks, which share the memory of a host without GPUs."""
    host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MemoryEstimate(weight_bytes, kv_bytes_per_token, _free_device_bytes() or host // world)


def _free_device_bytes() -> int | None:
    """The smallest number of free bytes on any NVIDIA GPU; None if there is no GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = (program, "--query-gpu=memory.free", "--format=csv,noheader,nounits")
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    free = [int(line) << 20 for line in result.stdout.split() if line.isdecimal()]
    return min(free, default=None)
