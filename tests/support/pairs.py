"""Pairs of a target and a draft, made from tiny models: how much is accepted, how texts end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.support.samplings import EOS
from tests.support.tiny import VOCABULARY

Model = Callable[..., str]
"""The fixture `model`: `model(name, seed)` is the folder of a tiny model."""
Pair = Callable[[str], tuple[str, str | None]]
"""The fixture `ending_pair`: `ending_pair(kind)` is a target and a draft."""
PIECES = {f"piece {id}": id for id in range(VOCABULARY)}
"""A vocabulary for `with_vocabulary`."""


@cache
def noisy_copy(target: str) -> str:
    """A model that is `target` with a little noise on its weights: some drafts are accepted."""
    torch.manual_seed(9)
    module = AutoModelForCausalLM.from_pretrained(target)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter) * parameter.std() * 0.1)
    path = str(Path(target).with_name("noisy"))
    module.save_pretrained(path)
    return path


@cache
def with_eos(path: str, *eos_ids: int) -> str:
    """A copy of a model that ends texts with any of `eos_ids`."""
    copy = Path(f"{path}-ends-{'-'.join(map(str, eos_ids))}")
    shutil.copytree(path, copy)
    for name in ("config.json", "generation_config.json"):
        facts = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(facts | {"eos_token_id": list(eos_ids)}))
    return str(copy)


def ending_pair(model: Model, kind: str) -> tuple[str, str | None]:
    """A target that ends texts with EOS, and its draft.

    `kind` says how many drafts are accepted: "none accepted", "some accepted" or "all accepted";
    "mixed" is "some accepted" for a server with another drafter next to it.
    For every other kind there is no draft model.
    """
    target = model("llama")
    drafts = {
        "none accepted": model("llama", 1),
        "some accepted": noisy_copy(target),
        "mixed": noisy_copy(target),
        "all accepted": target,
    }
    return with_eos(target, EOS), drafts.get(kind)


def with_vocabulary(folder: str, place: Path, pieces: dict[str, int]) -> str:
    """A folder `place` that links to the model in `folder`, with a tokenizer of `pieces`."""
    place.mkdir(parents=True)
    for file in Path(folder).iterdir():
        (place / file.name).symlink_to(file)
    (place / "tokenizer.json").write_text(json.dumps({"model": {"vocab": pieces}}))
    return str(place)


def renumbered(folder: str, place: Path, order: list[int]) -> str:
    """A model in `place` whose token `id` is the token `order[id]` of the one in `folder`."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = torch.tensor(order)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight.data = layer.weight.data[rows].clone()
    model.config.vocab_size = len(order)
    model.save_pretrained(place)
    pieces = {f"piece {old}": new for new, old in enumerate(order)}
    (place / "tokenizer.json").write_text(json.dumps({"model": {"vocab": pieces}}))
    return str(place)
