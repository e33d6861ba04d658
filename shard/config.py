"""What a shard is told at its birth. Help, default and environment name stand beside the field.

Frozen and free of imports that cost time, since the launcher reads it too. `rank`, `world`,
`socket`, `model_path` and `draft_path` are filled in by the launcher, one value per child.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import INFO
from pathlib import Path
from typing import Any

DEFAULT_DRAFT_LENGTH, AUTO_DRAFT_LENGTH, MAX_DRAFT_LENGTH = 5, 8, 64
"""Longest draft with a draft model where nothing is said, for `auto`, and at all."""


def option(default: Any, help: str, **more: Any) -> Any:
    """A field that is also a flag: `--field-name`, environment twin `FIELD_NAME`.

    Its twin is in `router.config`: neither package may import the other.
    """
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which models are served, and on how many shards."""

    model_id: str | None = option(None, "hub id or folder of the target; default: the bundled pair")
    revision: str | None = option(None, "revision of the target on the hub")
    draft_model_id: str | None = option(
        None,
        "hub id or folder of the draft model",
        aliases=("assistant-model-id", "speculative-model-id"),
    )
    draft_revision: str | None = option(None, "revision of the draft model on the hub")
    sharded: bool | None = option(None, "use every visible device", choices=("true", "false"))
    num_shard: int | None = option(None, "number of tensor-parallel shards")
    speculate: str | None = option(
        None,
        "most tokens drafted per round, by the draft model or by prompt lookup; 0: none, auto: 8;"
        " default: 5 with a draft model, else 0",
    )
    dtype: str | None = option(
        None,
        "precision of the weights; default: float32 on CPU, the checkpoint's own on CUDA",
        choices=("float16", "bfloat16", "float32"),
    )
    cuda_memory_fraction: float = option(
        1.0, "share of each GPU's memory that the server may take, weights included"
    )
    huggingface_hub_cache: str | None = option(
        None, "folder of models that were fetched; default: where HF_HOME says"
    )
    weights_cache_override: str | None = option(
        None, "folder whose *.safetensors files are served as the target's weights"
    )
    shard_uds_path: str | None = option(
        None, "prefix of the shards' Unix sockets; default: a fresh private folder"
    )

    def check(self) -> None:
        """Raises ValueError for what cannot go together, in TGI's words where it has some."""
        if self.sharded and self.num_shard is not None and self.num_shard <= 1:
            raise ValueError("`sharded` is true but `num_shard` <= 1")
        if self.num_shard is not None and self.num_shard < 1:
            raise ValueError("`num_shard` cannot be < 1")
        longest = self.max_draft_length(0)
        if longest < 0:
            raise ValueError("`speculate` cannot be < 0")
        if not 0 < self.cuda_memory_fraction <= 1:
            raise ValueError("`cuda_memory_fraction` must be > 0 and <= 1")
        if longest > MAX_DRAFT_LENGTH:
            raise ValueError(f"`speculate`({longest}) cannot be > {MAX_DRAFT_LENGTH}")

    def max_draft_length(self, default: int) -> int:
        """The flag as a number; `default` where it is not given. Raises ValueError for a word."""
        if self.speculate is None or self.speculate == "auto":
            return default if self.speculate is None else AUTO_DRAFT_LENGTH
        try:
            return int(self.speculate)
        except ValueError:
            raise ValueError(f"`speculate`: `{self.speculate}` is no number, nor auto") from None

    def shard_count(self, environment: Mapping[str, str]) -> int:
        """Number of shards: the one given, else the visible devices unless `sharded` is false.

        The rule is TGI's. Raises ValueError if `sharded` is true and no two devices are visible.
        """
        if self.num_shard is not None or self.sharded is False:
            return self.num_shard or 1
        devices = _visible_devices(environment)
        if self.sharded and devices <= 1:
            raise ValueError(f"`sharded` is true but only found {devices} CUDA devices")
        return max(devices, 1)


def _visible_devices(environment: Mapping[str, str]) -> int:
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    listed = next((environment[name] for name in names if name in environment), "")
    if listed == "all":
        return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return len([device for device in listed.split(",") if device.strip() not in _NO_DEVICE_VALUES])


_NO_DEVICE_VALUES = frozenset(("", "-1", "none", "void"))


DEFAULT_PREFILL_TOKENS = 4096
"""Most prompt tokens of one Step on CUDA unless the operator says otherwise."""


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """One rank's whole configuration."""

    model_path: str
    model_id: str
    draft_path: str | None
    rank: int
    world: int
    socket: str
    rendezvous: str
    """File through which the ranks of one group find each other."""
    speculate: int
    dtype: str | None
    max_rows: int
    max_total_tokens: int | None
    max_batch_total_tokens: int | None
    echo: bool = False
    """Serve the deterministic engine without a model, for tests and router benchmarks."""
    echo_seconds: float = 0.0
    """Seconds that the echo engine takes for a Step."""
    cuda_memory_fraction: float = 1.0
    prefill_tokens: int = DEFAULT_PREFILL_TOKENS
    """Most prompt tokens of one Step on CUDA, for which workspace is set aside."""
    max_swap_tokens: int | None = None
    """Tokens that the host pool holds; None: what suits the device."""
    log_level: int = INFO
    """Least level of `logging` that goes to stderr."""
    resident: bool | None = None
    """Whether rounds stay on the device where they can; None: on a GPU."""
