"""Which folders are served: the operator's, the bundled pair's, or what comes from the Hub.

Weights that lie elsewhere are linked into a folder with the model's other files, not copied.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard.config import DEFAULT_DRAFT_LENGTH, ModelConfig
from shard.errors import StartupError
from shard.launch.supervisor import INSTALL_ROOT, ChildCommand, Supervisor

DEMO_MODELS = {
    f"tgi-laps/demo-{part}": INSTALL_ROOT / "shard" / "demo" / part for part in ("target", "draft")
}
"""The bundled pair, by the names under which clients know it."""
PYTHON_COMMAND = (sys.executable, "-P", "-m")
"""-P: the folder in which the operator stands is not a place to import from."""


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """The folders to serve, and the names under which clients know them."""

    target: Path
    draft: Path | None
    target_id: str
    draft_id: str | None

    @property
    def folders(self) -> list[Path]:
        """All of them, the target first."""
        return [self.target, *([self.draft] if self.draft else [])]


async def resolve_models(
    config: ModelConfig, supervisor: Supervisor, run_folder: Path, *, weights: bool = True
) -> ModelFolders:
    """The folders of target and draft. Raises Fault.

    Without `weights` those that the Hub has are not fetched.
    """
    target, draft = config.model_id, config.draft_model_id
    if target is None:
        target, draft = "tgi-laps/demo-target", draft or "tgi-laps/demo-draft"
    if config.max_draft_length(DEFAULT_DRAFT_LENGTH) == 0:
        draft = None
    more = {"cache": config.huggingface_hub_cache, "weights": weights}
    folder = await _model_folder(target, config.revision, supervisor, more)
    if config.weights_cache_override:
        folder = link_weights(folder, Path(config.weights_cache_override), run_folder / "target")
    return ModelFolders(
        target=folder,
        draft=await _model_folder(draft, config.draft_revision, supervisor, more)
        if draft
        else None,
        target_id=target,
        draft_id=draft,
    )


async def _model_folder(
    model: str, revision: str | None, supervisor: Supervisor, options: dict[str, Any]
) -> Path:
    if folder := _local_folder(model):
        return folder
    wish = {"model_id": model, "revision": revision, **options}
    fetch = supervisor.start(
        ChildCommand("fetch", (*PYTHON_COMMAND, "shard.launch.hub_download"), wish)
    )
    found = await supervisor.wait_for("found", fetch)
    fetch.exit_expected = True
    await supervisor.wait_for("ended", fetch)
    return Path(found.data["path"])


def _local_folder(model: str) -> Path | None:
    folder = DEMO_MODELS.get(model, Path(model))
    if model in DEMO_MODELS and not folder.is_dir():
        raise StartupError(
            3, f"the bundled model {folder} is missing; name another with `model_id`"
        )
    return folder.resolve() if folder.is_dir() else None


WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")


def link_weights(model: Path, weights: Path, destination: Path) -> Path:
    """Fill the new folder `destination` with links. Raises Fault(4) if `weights` holds none."""
    found = [file for pattern in WEIGHT_PATTERNS for file in weights.glob(pattern)]
    if not found:
        raise StartupError(4, f"`weights_cache_override`: {weights} holds no *.safetensors file")
    own = [file for file in model.iterdir() if not any(map(file.match, WEIGHT_PATTERNS))]
    destination.mkdir()
    for file in (*own, *found):
        (destination / file.name).symlink_to(file.resolve())
    return destination
