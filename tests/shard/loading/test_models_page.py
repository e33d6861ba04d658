"""The table of architectures in docs/models.md says what the code and the tests do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM

from shard.errors import StartupError
from shard.loading.checkpoint import RECURRENT_MODEL_TYPES
from shard.loading.compatibility import refuse_unsupported
from shard.loading.partition import TensorParallelRank, partitions
from shard.model.attention_adapters.adapter_table import ADAPTERS
from tests.support import tiny
from tests.support.paths import ROOT

_PAGE = (ROOT / "docs" / "models.md").read_text().split("## Architectures")[1].split("\n## ")[0]
_TABLE, _REFUSED = _PAGE.split("### Refused")
_ROW = re.compile(r"^\| (.+) \| `(\w+)` \| (.+) \| (.+) \| `(\w+)` \[(.+)\] \|$", re.MULTILINE)
TESTS = {
    "test_engine": ("tests/shard/test_engine.py", {*tiny.PAGED, "phi3-longrope"}),
    "test_load": ("tests/shard/loading/test_load.py", {*tiny.ALSO_SERVED}),
    "test_adapter_table": (
        "tests/shard/model/attention_adapters/test_adapter_table.py",
        {*tiny.ADAPTED},
    ),
}
"""The tests that the page names, and the tiny models that they compare with transformers."""


class Architecture(NamedTuple):
    """A line of the table."""

    title: str
    model_type: str
    status: str
    shards: str
    test: str
    models: list[str]


ROWS = [
    Architecture(title, kind, status, shards, test, re.findall(r"`([\w-]+)`", models))
    for title, kind, status, shards, test, models in _ROW.findall(_TABLE)
]


def build(name: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny.CONFIGS[name]())


def is_sharded(name: str) -> bool:
    try:
        return bool(partitions(build(name), name, TensorParallelRank(0, 2)))
    except StartupError:
        return False


def test_every_line_of_the_table_is_read() -> None:
    assert len(ROWS) == len(re.findall(r"^\| ", _TABLE, re.MULTILINE)) - 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_the_evidence_compares_models_of_the_architecture(row: Architecture) -> None:
    path, models = TESTS[row.test]
    assert Path(ROOT / path).exists()
    assert row.models
    assert set(row.models) <= models
    assert {tiny.CONFIGS[name]().model_type for name in row.models} == {row.model_type}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_an_architecture_is_served_by_as_many_shards_as_the_table_says(row: Architecture) -> None:
    assert row.status.startswith("served")
    assert refuse_unsupported(tiny.CONFIGS[row.models[0]]()).isidentifier()
    assert row.shards.split(",")[0] == ("yes" if is_sharded(row.models[0]) else "no")


def test_every_tiny_model_and_every_adapter_is_in_the_table() -> None:
    listed = {name for row in ROWS for name in row.models}
    assert listed >= set(tiny.LOADED)
    assert {row.model_type for row in ROWS} >= set(ADAPTERS)


def test_every_recurrent_architecture_is_listed_as_refused() -> None:
    paragraph = _REFUSED.split("**Recurrent state**")[1].split("\n\n")[0]
    listed = re.findall(r"`(\w+)`", paragraph)
    assert set(listed) == RECURRENT_MODEL_TYPES


@pytest.mark.parametrize("kind", ["axk2", "deepseek_v32", "glm_moe_dsa"])
def test_a_learned_choice_of_keys_is_listed_as_refused(kind: str) -> None:
    assert f"`{kind}`" in _REFUSED
