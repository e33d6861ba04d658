"""The combination matrix: whatever meets whatever, the tokens are those of the plain path.

Every cell runs one request for each sampling parameter at once, through the shipped planner and
real Steps, two in flight: drafts of five kinds, one, three or eight rows a Step, one or two real
ranks, and preemption at random places by every rung.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmark.engine.in_process import InProcessLoop, InProcessRequest, device_capacity
from router.scheduler.planner import Planner
from shard.wire.protocol import NewRow, Sampling
from tests.shard.sampling.test_parameters import EOS, SAMPLINGS, disturbed
from tests.shard.test_preemption import RandomPolicy
from tests.support import tiny
from tests.support.ranks import RankProcess, connect_group, model_group
from tests.support.tiny import VOCABULARY, DrivePlan, RowSpec, drive, engine

Model = Callable[..., str]
DRAFTS = ("no draft", "none accepted", "some accepted", "all accepted", "n-gram")
BATCHES = (1, 3, 8)
PREEMPTIONS = ("never", "keep", "swap", "recompute")
CELLS = [(batch, rung) for batch in BATCHES for rung in PREEMPTIONS]


class EndingCall(InProcessRequest):
    """A call whose text may end with EOS."""

    def to_row(self) -> NewRow:
        return replace(super().to_row(), ignore_eos=False)


@dataclass(frozen=True)
class Served:
    """Something that executes Steps, and whether it drafts."""

    engine: Any
    drafts: bool


@cache
def ending(path: str) -> str:
    """A copy of a model that ends texts with EOS."""
    copy = Path(f"{path}-ending")
    shutil.copytree(path, copy)
    for name in ("config.json", "generation_config.json"):
        facts = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(facts | {"eos_token_id": EOS}))
    return str(copy)


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Callable[[str], tuple[str, str | None]]:
    """`pair(kind)` is a target, and a draft of that kind where there is one."""
    model: Model = request.getfixturevalue("model")

    def paths(kind: str) -> tuple[str, str | None]:
        target = model("llama")
        drafts = {
            "none accepted": model("llama", 1),
            "some accepted": disturbed(target),
            "all accepted": target,
        }
        return ending(target), drafts.get(kind)

    return paths


def prompts() -> list[tuple[int, ...]]:
    """One for each parameter; every third starts with the same two pages."""
    random = Random(4)
    head = tuple(random.randrange(VOCABULARY) for _ in range(32))
    made = []
    for index in range(len(SAMPLINGS)):
        own = tuple(random.randrange(VOCABULARY) for _ in range(random.randint(1, 20)))
        made.append(head + own if index % 3 == 0 else own)
    return made


def samplings() -> list[Sampling]:
    return [replace(each, seed=seed) for seed, each in enumerate(SAMPLINGS.values())]


@cache
def plain(target: str) -> list[list[int]]:
    """The target alone, one request at a time."""
    asks = [RowSpec(p, 20, sampling) for p, sampling in zip(prompts(), samplings(), strict=True)]
    return drive(engine(target), asks, DrivePlan(batch=1))


def run(served: Served, batch: int, rung: str) -> tuple[list[list[int]], dict[str, int]]:
    """All requests through the planner; their tokens, and the preemptions by kind."""
    tight = {"pages": 9, "preemption": rung} if rung in ("swap", "recompute") else {}
    room = {"max_rows": batch, "prefill_tokens": 24, **tight}
    if not served.drafts:
        room["speculate"] = 0
    change = 0.0 if rung == "never" else 0.4
    scheduler = Planner(
        device_capacity(served.engine.ready(), **room), RandomPolicy(Random(batch), change)
    )
    loop = InProcessLoop(served.engine, scheduler)
    calls = [
        EndingCall(id, prompt, 20, sampling)
        for id, (prompt, sampling) in enumerate(zip(prompts(), samplings(), strict=True))
    ]
    for call in calls:
        loop.submit(call)
    loop.run()
    return [call.emitted for call in calls], scheduler.status().preemptions


def check(served: Served, target: str, batch: int, rung: str) -> None:
    tokens, preemptions = run(served, batch, rung)
    assert tokens == plain(target)
    assert rung == "never" or preemptions[rung] > 0


@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize(("batch", "rung"), CELLS)
def test_one_rank(
    pair: Callable[[str], tuple[str, str | None]], kind: str, batch: int, rung: str
) -> None:
    target, draft = pair(kind)
    alone = tiny.swapping_engine(target, draft)
    alone.reset()
    check(Served(alone, kind != "no draft"), target, batch, rung)


@pytest.fixture(scope="module", params=DRAFTS)
def two_ranks(
    request: pytest.FixtureRequest, pair: Callable[[str], tuple[str, str | None]]
) -> Iterator[tuple[list[RankProcess], str, bool]]:
    target, draft = pair(request.param)
    with model_group(tiny.config(target, draft, max_swap_tokens=1024), 2) as ranks:
        yield ranks, target, request.param != "no draft"


@pytest.mark.parametrize(("batch", "rung"), CELLS)
def test_two_ranks(two_ranks: tuple[list[RankProcess], str, bool], batch: int, rung: str) -> None:
    ranks, target, drafts = two_ranks
    with connect_group(ranks) as group:
        check(Served(group, drafts), target, batch, rung)
