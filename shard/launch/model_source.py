"""Which folders are served: the operator's, the bundled pair's, or what comes from the Hub.

Weights that lie elsewhere are linked into a folder with the model's other files, not copied.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard.config import DRAFTED, ModelConfig
from shard.errors import Fault
from shard.launch.supervisor import HOME, Children, Command

DEMO = {f"tgi-laps/demo-{part}": HOME / "shard" / "demo" / part for part in ("target", "draft")}
"""The bundled pair, by the names under which clients know it."""
PYTHON = (sys.executable, "-P", "-m")
"""-P: the folder in which the operator stands is not a place to import from."""


@dataclass(frozen=True, slots=True)
class Models:
    """The folders to serve, and the names under which clients know them."""

    target: Path
    draft: Path | None
    target_id: str
    draft_id: str | None

    @property
    def folders(self) -> list[Path]:
        """All of them, the target first."""
        return [self.target, *([self.draft] if self.draft else [])]


async def find(
    model: ModelConfig, children: Children, run_folder: Path, *, weights: bool = True
) -> Models:
    """The folders of target and draft. Raises Fault.

    Without `weights` those that the Hub has are not fetched.
    """
    target, draft = model.model_id, model.draft_model_id
    if target is None:
        target, draft = "tgi-laps/demo-target", draft or "tgi-laps/demo-draft"
    if model.longest_draft(DRAFTED) == 0:
        draft = None
    more = {"cache": model.huggingface_hub_cache, "weights": weights}
    folder = await _folder(target, model.revision, children, more)
    if model.weights_cache_override:
        folder = overlay(folder, Path(model.weights_cache_override), run_folder / "target")
    return Models(
        target=folder,
        draft=await _folder(draft, model.draft_revision, children, more) if draft else None,
        target_id=target,
        draft_id=draft,
    )


async def _folder(
    model: str, revision: str | None, children: Children, more: dict[str, Any]
) -> Path:
    if folder := _local(model):
        return folder
    wish = {"model_id": model, "revision": revision, **more}
    fetch = children.start(Command("fetch", (*PYTHON, "shard.launch.hub_download"), wish))
    found = await children.until("found", fetch)
    fetch.leaving = True
    await children.until("ended", fetch)
    return Path(found.facts["path"])


def _local(model: str) -> Path | None:
    folder = DEMO.get(model, Path(model))
    if model in DEMO and not folder.is_dir():
        raise Fault(3, f"the bundled model {folder} is missing; name another with `model_id`")
    return folder.resolve() if folder.is_dir() else None


WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def overlay(model: Path, weights: Path, into: Path) -> Path:
    """Fill the new folder `into` with links. Raises Fault(4) if `weights` holds none."""
    found = [file for pattern in WEIGHTS for file in weights.glob(pattern)]
    if not found:
        raise Fault(4, f"`weights_cache_override`: {weights} holds no *.safetensors file")
    own = [file for file in model.iterdir() if not any(map(file.match, WEIGHTS))]
    into.mkdir()
    for file in (*own, *found):
        (into / file.name).symlink_to(file.resolve())
    return into
