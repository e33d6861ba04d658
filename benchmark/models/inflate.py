"""Writes a larger model that computes the same function as a small one.

Cost is then that of the larger shape, while answers and the acceptance of drafts are the small
model's. One layer is in memory at a time. The vocabulary and tied embeddings stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.models.inflation import Inflation
from benchmark.models.shapes import SHAPES, Shape, inflated_config, require_fits, shape_of
from shard.errors import StartupError
from shard.gguf.conversion_cache import create_once
from shard.loading.model_files import read_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LAYER = "model.layers."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of a small Llama model")
    parser.add_argument("target", type=Path, help="folder to create; kept if it exists")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="default: bfloat16")


def run(args: argparse.Namespace) -> int:
    """Create the target. Return 1 if the source cannot be inflated."""
    write = partial(inflate, args.source, SHAPES[args.shape], args.dtype)
    try:
        create_once(args.target, write)
    except StartupError as error:
        print(f"inflate: {error.text}", file=sys.stderr)
        return 1
    print(f"{args.target} is ready")
    return 0


def inflate(source: Path, shape: Shape, dtype: str, target: Path) -> None:
    """Write the inflated model into the folder `target`. Raises StartupError."""
    config = read_config(source)
    small = shape_of(config)
    require_fits(small, shape)
    _copy_other_files(source, target)
    large_config = {**inflated_config(config, small, shape), "dtype": dtype}
    (target / "config.json").write_text(json.dumps(large_config, indent=2) + "\n")
    inflation = Inflation(small, shape, config["vocab_size"])
    _write_parts(_parts(_Weights(source, DTYPES[dtype]), inflation), shape.layers + 1, target)


class _Weights:
    """The weights of a model folder, read one at a time."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file: Any = safe_open(path, framework="pt")  # its methods are not typed
            self._files |= dict.fromkeys(file.keys(), file)

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._files if name.startswith(prefix)]

    def outside_layers(self) -> list[str]:
        return [name for name in self._files if not name.startswith(_LAYER)]

    def read(self, name: str) -> Tensor:
        weight: Tensor = self._files[name].get_tensor(name)
        return weight.to(self.dtype)


def _parts(weights: _Weights, inflation: Inflation) -> Iterator[dict[str, Tensor]]:
    """Yield the weights outside the layers, then those of each layer."""
    read, large = weights.read, inflation.inflate
    yield {name: large(name, read(name)) for name in weights.outside_layers()}
    for layer in range(inflation.small.layers):
        yield {name: large(name, read(name)) for name in weights.names(f"{_LAYER}{layer}.")}
    first = f"{_LAYER}0."
    for layer in range(inflation.small.layers, inflation.large.layers):
        names = [(name, name.replace(first, f"{_LAYER}{layer}.")) for name in weights.names(first)]
        yield {new: inflation.zeros(name, weights.dtype) for name, new in names}


def _write_parts(parts: Iterator[dict[str, Tensor]], count: int, target: Path) -> None:
    """Write each part to a file of its own, and the index of all."""
    files: dict[str, str] = {}
    size = 0
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{count:05}.safetensors"
        save_file(part, target / file, metadata={"format": "pt"})
        files |= dict.fromkeys(part, file)
        size += sum(weight.nbytes for weight in part.values())
        print(f"wrote {number} of {count} files", flush=True)
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _copy_other_files(source: Path, target: Path) -> None:
    """Copy the tokenizer and whatever else does not depend on the shape."""
    for path in source.iterdir():
        has_weights = ".safetensors" in path.name
        if path.is_file() and path.name != "config.json" and not has_weights:
            shutil.copy(path, target)
