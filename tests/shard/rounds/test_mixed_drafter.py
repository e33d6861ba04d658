"""Two drafters in one batch: who drafts for which row, and that the tokens stay the target's."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from shard.engine import Engine
from shard.wire.protocol import RowResult, Sampling
from tests.support import driver, tiny
from tests.support.driver import DrivePlan, RowSpec
from tests.support.nightly import thinned
from tests.support.samplings import GREEDY, SAMPLED, SAMPLINGS
from tests.support.tiny import VOCABULARY

Model = Callable[..., str]
PLANS = [
    DrivePlan(draft=4, suffix=16, batch=1),
    DrivePlan(draft=4, suffix=16, batch=3),
    DrivePlan(draft_lengths=(0, 1, 5, 3), suffix=7, batch=8, chunk=4),
    DrivePlan(draft=0, suffix=16, batch=8, scattered=True),
]


@pytest.fixture(scope="module")
def served(model: Model) -> Engine:
    config = tiny.config(model("llama"), model("llama", 1), drafter="auto")
    return tiny.unmeasured_engine(config)


def asks(sampling: Sampling) -> list[RowSpec]:
    """Eight prompts; every other one repeats itself, so that suffix decoding has work."""
    rng = random.Random(3)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(size)] for size in (1, 6, 17, 9) * 2]
    prompts = [p * 3 if place % 2 else p for place, p in enumerate(prompts)]
    return [RowSpec(tuple(p), 30, replace(sampling, seed=i)) for i, p in enumerate(prompts)]


def results(engine: Engine, specs: list[RowSpec], plan: DrivePlan) -> list[RowResult]:
    engine.reset()
    return driver.run_steps(specs, plan, lambda step: engine.execute(step).items)


@pytest.mark.parametrize(
    ("name", "plan"), thinned([(name,) for name in SAMPLINGS], [(plan,) for plan in PLANS], 3)
)
def test_the_tokens_are_those_of_the_target_alone(
    served: Engine, model: Model, name: str, plan: DrivePlan
) -> None:
    plain = driver.drive(tiny.engine(model("llama")), asks(SAMPLINGS[name]), DrivePlan(batch=1))
    done = results(served, asks(SAMPLINGS[name]), plan)
    assert driver.tokens_by_row(done, len(plain)) == plain


def test_suffix_decoding_drafts_where_it_finds_a_match_and_the_model_elsewhere(
    served: Engine,
) -> None:
    done = results(served, asks(GREEDY), DrivePlan(draft=4, suffix=16))
    drafted = {name: [i for i in done if i.drafter == name] for name in ("model", "suffix")}
    assert min(map(len, drafted.values())) > 10
    assert max(item.drafted for item in drafted["model"]) <= 4
    assert 4 < max(item.drafted for item in drafted["suffix"]) <= 16
    assert all((item.drafter == "") == (item.drafted == 0) for item in done)


@pytest.mark.parametrize(("plan", "name"), [(DrivePlan(draft=4), "model"), (PLANS[3], "suffix")])
def test_what_the_step_does_not_allow_does_not_draft(
    served: Engine, plan: DrivePlan, name: str
) -> None:
    done = results(served, asks(GREEDY), plan)
    assert {item.drafter for item in done} == {"", name}


def test_after_rounds_of_suffix_decoding_the_model_catches_up_and_is_right(model: Model) -> None:
    """A draft with the target's weights is right wherever its cache is."""
    config = tiny.config(model("llama"), model("llama"), drafter="auto")
    done = results(tiny.unmeasured_engine(config), asks(SAMPLED), DrivePlan(draft=3, suffix=16))
    own = [item for item in done if item.drafter == "model"]
    assert sum(item.drafted for item in own) > 100
    assert all(item.accepted == min(item.drafted, len(item.tokens)) for item in own)
