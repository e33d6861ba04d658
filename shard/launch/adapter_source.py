"""The folders of the LoRA adapters to begin with: the operator's, or downloads from the Hub."""

from __future__ import annotations

from pathlib import Path

from shard.child_command import python_command
from shard.config import AdapterSource, ModelConfig
from shard.launch.child import ChildCommand
from shard.launch.supervisor import Supervisor
from shard.loading.adapter_config import read_adapter_config


async def resolve_adapters(config: ModelConfig, supervisor: Supervisor) -> tuple[Path, ...]:
    """The folder of each adapter of `config`, in order. Raises StartupError."""
    cache = config.huggingface_hub_cache
    folders = [await _adapter_folder(each, cache, supervisor) for each in config.adapter_sources()]
    for folder in folders:
        read_adapter_config(folder)
    return tuple(folders)


async def _adapter_folder(
    adapter: AdapterSource, cache: str | None, supervisor: Supervisor
) -> Path:
    if folder := _local_folder(adapter.source):
        return folder
    job = {"model_id": adapter.source, "revision": adapter.revision, "cache": cache}
    command = ChildCommand(
        "fetch", python_command("shard.launch.hub_download"), {**job, "is_adapter": True}
    )
    return Path((await supervisor.result_of(command, "found"))["path"])


def _local_folder(source: str) -> Path | None:
    folder = Path(source)
    return folder.resolve() if folder.is_dir() else None
