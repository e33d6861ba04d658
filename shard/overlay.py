"""A folder that is a model's own but for its weights, which lie elsewhere; links, no copies."""

from __future__ import annotations

from pathlib import Path

from shard.errors import Fault

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
