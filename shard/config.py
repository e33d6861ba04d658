"""The configuration of the models and of a shard. Fields carry their flag's help and default.

Frozen, and free of slow imports, since the launcher reads it too. The launcher makes one
ShardConfig per rank.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import INFO
from pathlib import Path
from typing import Any

DEFAULT_DRAFT_LENGTH, AUTO_DRAFT_LENGTH, MAX_DRAFT_LENGTH = 5, 8, 64
"""Draft length in tokens: with a draft model if `speculate` is not set, for `auto`, and at most."""
SUFFIX_DRAFT_LENGTH = 16
"""Draft length in tokens of suffix decoding, for `auto` and if `speculate` is not set."""
DRAFTER_NAMES = ("model", "ngram", "suffix", "auto")
"""Names of the drafters, the keys of `shard.drafters.DRAFTERS`."""


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A field that is also a flag, `--field-name`, and an environment variable, `FIELD_NAME`.

    `router.config` has the same function, since neither package may import the other.
    """
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """Where a LoRA adapter comes from."""

    name: str
    """By which requests choose it."""
    source: str
    """Hub id or folder."""
    revision: str | None

    @classmethod
    def parse(cls, entry: str) -> AdapterSource:
        """The source in `NAME`, `NAME=SOURCE`, `NAME@REVISION` or `NAME=SOURCE@REVISION`.

        These are TGI's forms. Raises ValueError.
        """
        match = re.fullmatch(r"([^=@]+)(?:=([^=@]+))?(?:@([^=@]+))?", entry)
        if match is None:
            raise ValueError(f"`lora_adapters`: `{entry}` is not NAME[=SOURCE][@REVISION]")
        name, source, revision = match.groups()
        return cls(name, source or name, revision)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The models, their precision, and the number of shards."""

    model_id: str | None = option(
        None,
        "hub id, folder or GGUF file of the target model; default: the bundled target and draft",
    )
    revision: str | None = option(None, "revision of the target model on the hub")
    draft_model_id: str | None = option(
        None,
        "hub id, folder or GGUF file of the draft model",
        aliases=("assistant-model-id", "speculative-model-id"),
    )
    draft_revision: str | None = option(None, "revision of the draft model on the hub")
    sharded: bool | None = option(
        None, "shard the model over all visible devices", choices=("true", "false")
    )
    num_shard: int | None = option(None, "number of tensor-parallel shards")
    speculate: str | None = option(
        None,
        "maximum number of tokens drafted per round; 0 drafts nothing, auto is 8, or 16 with suffix"
        " decoding; default: 5 with a draft model, auto with suffix decoding, else 0",
    )
    drafter: str | None = option(
        None,
        "what drafts: the draft model, prompt lookup (ngram) in the request's own text, suffix"
        " decoding, which also copies from recent answers, or for each row the better of model and"
        " suffix (auto); default: model if there is one, else ngram",
        choices=DRAFTER_NAMES,
    )
    dtype: str | None = option(
        None,
        "precision of the weights; default: float32 on CPU, the checkpoint's own on CUDA",
        choices=("float16", "bfloat16", "float32"),
    )
    cuda_memory_fraction: float = option(
        1.0, "fraction of each GPU's memory that the server may use, weights included"
    )
    huggingface_hub_cache: str | None = option(
        None, "folder of downloaded models; default: the cache under HF_HOME"
    )
    weights_cache_override: str | None = option(
        None, "folder whose *.safetensors files replace the target model's weights"
    )
    measurement_cache: str | None = option(
        None,
        "folder that keeps what ranks on a CPU measure at their start, for later starts; none:"
        " measure at every start; default: in $XDG_CACHE_HOME/text-generation-laps",
    )
    shard_uds_path: str | None = option(
        None, "path prefix of the shards' Unix sockets; default: a new private folder"
    )
    rope_scaling: str | None = option(
        None,
        "how the target model's rotary embedding is scaled for longer texts; default: linear if"
        " rope-factor is set",
        choices=("linear", "dynamic"),
    )
    rope_factor: float | None = option(
        None, "by what the target model's length grows; default: 1 if rope-scaling is set"
    )
    lora_adapters: str | None = option(
        None,
        "LoRA adapters to serve, separated by commas: a hub id or folder, which is also the name,"
        " or NAME=ID; with @REVISION if it is not the default one",
    )
    lora_folder: str | None = option(
        None, "folder from which LoRA adapters may be loaded while the server runs"
    )
    max_lora_bytes: int = option(
        1 << 30,
        "maximum size in bytes of the adapters loaded from lora-folder, on one shard; those used"
        " least recently go out first",
    )

    def check(self) -> None:
        """Raises ValueError for values that contradict each other, in TGI's words if it has any."""
        self.adapter_sources()
        if self.rope_factor is not None and self.rope_factor < 1:
            raise ValueError("`rope_factor` must be >= 1")
        if self.max_lora_bytes < 1:
            raise ValueError("`max_lora_bytes` must be > 0")
        if self.lora_folder is not None and not Path(self.lora_folder).is_dir():
            raise ValueError(f"`lora_folder`: {self.lora_folder} is not a folder")
        if self.sharded and self.num_shard is not None and self.num_shard <= 1:
            raise ValueError("`sharded` is true but `num_shard` <= 1")
        if self.num_shard is not None and self.num_shard < 1:
            raise ValueError("`num_shard` cannot be < 1")
        draft_length = self.max_draft_length(has_draft=False)
        if draft_length < 0:
            raise ValueError("`speculate` cannot be < 0")
        if not 0 < self.cuda_memory_fraction <= 1:
            raise ValueError("`cuda_memory_fraction` must be > 0 and <= 1")
        if draft_length > MAX_DRAFT_LENGTH:
            raise ValueError(f"`speculate`({draft_length}) cannot be > {MAX_DRAFT_LENGTH}")

    def adapter_sources(self) -> list[AdapterSource]:
        """The adapters of `lora_adapters`. Raises ValueError."""
        entries = (self.lora_adapters or "").split(",")
        sources = [AdapterSource.parse(entry.strip()) for entry in entries if entry.strip()]
        for name, count in Counter(source.name for source in sources).items():
            if count > 1:
                raise ValueError(f"`lora_adapters` has two adapters with the name `{name}`")
        return sources

    def max_draft_length(self, *, has_draft: bool) -> int:
        """`speculate` as a number of tokens; `has_draft`: there is a draft model.

        Raises ValueError if it is neither a number nor `auto`.
        """
        if self.speculate is None or self.speculate == "auto":
            if self.drafter == "suffix" or (self.drafter == "auto" and not has_draft):
                return SUFFIX_DRAFT_LENGTH
            default = DEFAULT_DRAFT_LENGTH if has_draft else 0
            return default if self.speculate is None else AUTO_DRAFT_LENGTH
        try:
            return int(self.speculate)
        except ValueError:
            raise ValueError("`speculate` must be an integer or `auto`") from None

    @property
    def drafts_with_model(self) -> bool:
        """Whether a draft model is of use."""
        return self.drafter in (None, "model", "auto") and self.max_draft_length(has_draft=True) > 0

    def shard_count(self, environment: Mapping[str, str]) -> int:
        """`num_shard` if set, else 1 if `sharded` is false, else the number of visible devices.

        This is TGI's rule. Raises ValueError if `sharded` is true and fewer than two devices are
        visible.
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
"""Default maximum of prompt tokens in one step on CUDA."""


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """The complete configuration of one rank."""

    model_path: str
    model_id: str
    draft_path: str | None
    rank: int
    world: int
    socket: str
    rendezvous: str
    """File through which the ranks of a group find each other, see `torch.distributed`."""
    speculate: int
    dtype: str | None
    max_rows: int
    max_total_tokens: int | None
    max_batch_total_tokens: int | None
    echo: bool = False
    """Run the deterministic echo engine, which needs no model, for tests and benchmarks."""
    echo_seconds: float = 0.0
    """Seconds that each step of the echo engine takes."""
    cuda_memory_fraction: float = 1.0
    prefill_tokens: int = DEFAULT_PREFILL_TOKENS
    """Maximum number of prompt tokens in one step on CUDA; workspace is reserved for it."""
    max_swap_tokens: int | None = None
    """Size of the swap pool in tokens; None for the device's default."""
    log_level: int = INFO
    """Lowest `logging` level that is written to stderr."""
    resident: bool = False
    """Whether to run rounds on the device where possible; off until proven on a GPU."""
    drafter: str | None = None
    """Name of the drafter; None: the draft model if there is one, else prompt lookup."""
    measurement_cache: str | None = None
    """Folder that keeps what is measured, for later launchers; None: measure at every start."""
    adapters: bool = False
    """Whether rows may have LoRA adapters."""
    adapter_paths: tuple[str, ...] = ()
    """Folders of the adapters to begin with, which have the numbers from 1 on."""
    rope_scaling: str | None = None
    rope_factor: float | None = None
