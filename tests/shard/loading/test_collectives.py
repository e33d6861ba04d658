"""Real ranks over gloo emit one rank's tokens, also where there are more ranks than KV heads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import count

import pytest

from shard.wire.protocol import Sampling
from tests.support import driver, tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.forked_ranks import ForkedRank
from tests.support.ranks import (
    config_for_rank,
    connect_group,
    model_group,
    socket_folder,
)
from tests.support.samplings import SAMPLED
from tests.support.tiny import SHARDED, engine

Model = Callable[..., str]
ASKS = [RowSpec((5, 6, 7), 24, Sampling()), RowSpec(tuple(range(20)), 24, SAMPLED)]


@pytest.mark.parametrize(
    ("name", "world"), [*((name, 2) for name in (*SHARDED, "llama-one-kv")), ("llama", 4)]
)
def test_tokens_do_not_depend_on_the_number_of_ranks(model: Model, name: str, world: int) -> None:
    path, draft = model(name), model("llama", 1)
    alone = drive(engine(path, draft), ASKS, DrivePlan(draft=3))
    numbers = count(1)
    with model_group(tiny.config(path, draft), world) as ranks, connect_group(ranks) as group:
        items = driver.run_steps(
            ASKS,
            DrivePlan(draft=3),
            lambda step: group.execute(replace(step, number=next(numbers))).items,
        )
    assert driver.tokens_by_row(items, len(ASKS)) == alone


def test_a_model_without_a_plan_is_refused_by_name(model: Model) -> None:
    with socket_folder() as path, ExitStack() as stack:
        alone = tiny.config(model("gpt2"), "")
        ranks = [
            stack.enter_context(ForkedRank(config_for_rank(alone, n, 2, path))) for n in range(2)
        ]
        for rank in ranks:
            while (event := rank.next_event())["event"] == "progress":
                pass
            assert event["event"] == "fault"
            assert "GPT2LMHeadModel has no tensor-parallel plan" in event["text"]
            rank.process.join(timeout=60)
            assert rank.process.exitcode == 4
