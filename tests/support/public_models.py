"""The real models that `make models` prepares, and a draft model made from one of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.paths import ROOT

FOLDER = ROOT / ".models"


def public_model(name: str) -> Path:
    """The folder of a public model; the test is skipped if it has not been prepared."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; `make models` prepares it")
    return folder


@cache
def first_layers(model: Path, layers: int, folder: Path) -> Path:
    """A draft model in `folder`: the first `layers` layers of `model`, with its embeddings."""
    folder.mkdir()
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] = layers
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:layers]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").symlink_to(model / "tokenizer.json")
    tensors = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if _layer(name) < layers}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _layer(name: str) -> int:
    """The layer of a tensor; -1 for one that belongs to none."""
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else -1
