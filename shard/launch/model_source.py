"""Which folders are served: the operator's, the bundled models', or a download from the Hub.

A GGUF file is converted to a folder first. Weights in another folder are linked into one with the
model's other files, not copied.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard.child_command import INSTALL_ROOT, python_command
from shard.config import ModelConfig
from shard.errors import StartupError
from shard.gguf.conversion_cache import converted_folder
from shard.gguf.selection import check_gguf, find_gguf
from shard.launch.adapter_source import resolve_adapters
from shard.launch.child import ChildCommand
from shard.launch.supervisor import Supervisor

DEMO_MODELS = {
    f"tgi-laps/demo-{part}": INSTALL_ROOT / "shard" / "demo" / part for part in ("target", "draft")
}
"""Folders of the bundled models, by model id."""
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """The folders to serve, and the model ids that clients see."""

    target: Path
    draft: Path | None
    target_id: str
    draft_id: str | None
    without_weights: tuple[Path, ...] = ()
    """Those of the folders whose weights have not been downloaded."""
    adapters: tuple[Path, ...] = ()
    """Of the LoRA adapters to begin with."""


async def resolve_models(
    config: ModelConfig, supervisor: Supervisor, run_folder: Path, *, weights: bool = True
) -> ModelFolders:
    """Find the folders of target and draft; download or convert the models that are not ready.

    Without `weights`, only the other files are downloaded. Raises StartupError.
    """
    target, draft = config.model_id, config.draft_model_id
    if target is None:
        target, draft = "tgi-laps/demo-target", draft or "tgi-laps/demo-draft"
    if not config.drafts_with_model:
        draft = None
    adapters = await resolve_adapters(config, supervisor)
    options = {"cache": config.huggingface_hub_cache, "weights": weights}
    folder = await _model_folder(target, config.revision, config.dtype, supervisor, options)
    without_weights: list[Path] = [folder] if _is_downloaded(target) and not weights else []
    if config.weights_cache_override:
        folder = link_weights(folder, Path(config.weights_cache_override), run_folder / "target")
    if draft is None:
        return ModelFolders(folder, None, target, None, tuple(without_weights), adapters)
    revision = config.draft_revision
    draft_folder = await _model_folder(draft, revision, config.dtype, supervisor, options)
    if _is_downloaded(draft) and not weights:
        without_weights.append(draft_folder)
    return ModelFolders(folder, draft_folder, target, draft, tuple(without_weights), adapters)


async def _model_folder(
    model: str,
    revision: str | None,
    dtype: str | None,
    supervisor: Supervisor,
    options: dict[str, Any],
) -> Path:
    if file := find_gguf(model):
        return await _converted(file, dtype, supervisor)
    if folder := _local_folder(model):
        return folder
    job = {"model_id": model, "revision": revision, **options}
    command = ChildCommand("fetch", python_command("shard.launch.hub_download"), job)
    return Path((await supervisor.result_of(command, "found"))["path"])


async def _converted(file: Path, dtype: str | None, supervisor: Supervisor) -> Path:
    """The folder that a GGUF file has been converted to, now or by an earlier start."""
    folder = converted_folder(file, dtype, os.environ)
    if folder.is_dir():
        return folder
    check_gguf(file)
    job = {"file": str(file), "folder": str(folder), "dtype": dtype}
    command = ChildCommand("convert", python_command("shard.gguf"), job)
    return Path((await supervisor.result_of(command, "found"))["path"])


def _is_downloaded(model: str) -> bool:
    """Whether the model comes from the Hub."""
    return find_gguf(model) is None and _local_folder(model) is None


def _local_folder(model: str) -> Path | None:
    folder = DEMO_MODELS.get(model, Path(model))
    if model in DEMO_MODELS and not folder.is_dir():
        raise StartupError(
            3, f"the bundled model {folder} is missing; choose another with `model_id`"
        )
    return folder.resolve() if folder.is_dir() else None


def link_weights(model: Path, weights: Path, destination: Path) -> Path:
    """Create `destination` with links to the files of `model`, but the weights of `weights`.

    Raises StartupError(4) if `weights` has no safetensors file.
    """
    weight_files = [file for pattern in WEIGHT_PATTERNS for file in weights.glob(pattern)]
    if not weight_files:
        raise StartupError(4, f"`weights_cache_override`: {weights} holds no *.safetensors file")
    others = [file for file in model.iterdir() if not any(map(file.match, WEIGHT_PATTERNS))]
    destination.mkdir()
    for file in (*others, *weight_files):
        (destination / file.name).symlink_to(file.resolve())
    return destination
