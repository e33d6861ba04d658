"""What is true only on a device. Run by `make gpu`; deselected, not skipped, everywhere else.

Without a device every test here fails: asking for them on a machine that has none is a mistake.
Figures and statistics go to `benchmark/results/gpu.json`, written when the session ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny
from tests.support.gpu import Record
from tests.support.paths import ROOT

RESULT = ROOT / "benchmark" / "results" / "gpu.json"


@pytest.fixture(autouse=True)
def device() -> torch.device:
    """The first CUDA device."""
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device: these tests say nothing here")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """`record(name, value)` adds a figure to the result file."""
    figures: dict[str, Any] = {}
    yield figures.__setitem__
    if figures:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`model(name, seed)` is the folder of a tiny model."""
    folder: Path = tmp_path_factory.mktemp("models")
    return cache(lambda name, seed=0: tiny.save(name, folder, seed))
