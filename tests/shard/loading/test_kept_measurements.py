"""Two real ranks start with kept measurements only together, and emit the same tokens with any."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from shard import engine_parts
from shard.config import ShardConfig
from shard.loading.measurement_cache import MeasurementCache
from shard.wire.protocol import Ready, Sampling
from tests.support import driver, tiny
from tests.support.driver import DrivePlan, RowSpec
from tests.support.ranks import connect_group, model_group
from tests.support.samplings import SAMPLED

ASKS = [RowSpec((5, 6, 7), 12, Sampling()), RowSpec(tuple(range(20)), 12, SAMPLED)]
Tokens = list[list[int]]


def keep_on_a_busy_machine() -> None:
    """Let a rank keep what it measures while other tests run."""
    pytest.MonkeyPatch().setattr(engine_parts, "MAX_OTHERS", 1.0)


def start(config: ShardConfig) -> tuple[Ready, Tokens]:
    """What two ranks of `config` announce, and the tokens of `ASKS`."""
    numbers = count(1)
    with model_group(config, 2, keep_on_a_busy_machine) as ranks, connect_group(ranks) as group:
        items = driver.run_steps(
            ASKS,
            DrivePlan(draft=3),
            lambda step: group.execute(replace(step, number=next(numbers))).items,
        )
        return group.ready(), driver.tokens_by_row(items, len(ASKS))


def values(file: Path) -> list[Any]:
    kept: list[Any] = json.loads(file.read_text())["values"]
    return kept


def make_costs_extreme(file: Path) -> None:
    """Replace `file` as if a machine had measured that drafting costs a thousand times as much."""
    kept = json.loads(file.read_text())
    cache = MeasurementCache(json.loads(kept["key"]), file.parent)
    assert cache.file == file
    costs = [value for value in kept["values"] if isinstance(value, dict)]
    costs[-1]["draft_token_seconds"] = 1000.0
    cache.write(kept["values"], are_reused=False)


@pytest.mark.nightly  # test_measured_times has the decision, without processes
def test_two_ranks_use_what_is_kept_only_if_both_have_it(
    model: Callable[..., str], tmp_path: Path
) -> None:
    alone = tiny.config(model("llama"), model("llama", 1))
    config = replace(alone, measurement_cache=str(tmp_path))
    _, tokens = start(config)
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert values(files[0]) == values(files[1])
    make_costs_extreme(files[0])
    measured, again = start(config)
    assert measured.draft_token_seconds < 1000
    assert again == tokens
    assert values(files[0]) == values(files[1])
    for file in files:
        make_costs_extreme(file)
    reused, with_kept = start(config)
    assert reused.draft_token_seconds == 1000
    assert with_kept == tokens
