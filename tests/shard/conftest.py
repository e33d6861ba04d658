"""Tiny models, saved once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.support import tiny
from tests.support.pairs import Model, Pair
from tests.support.pairs import ending_pair as make_ending_pair


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests compute in one thread, also after an engine that has chosen more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], str]:
    """`model(name, seed)` is the folder of a tiny model."""
    folder: Path = tmp_path_factory.mktemp("models")
    return cache(lambda name, seed=0: tiny.save(name, folder, seed))


@pytest.fixture(scope="session")
def ending_pair(model: Model) -> Pair:
    """`ending_pair(kind)` is a target that ends texts, and a draft of that kind if there is one."""
    return lambda kind: make_ending_pair(model, kind)
