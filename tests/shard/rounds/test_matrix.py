"""The combination matrix: whatever meets whatever, the tokens are those of the plain path.

Every cell runs one request for each sampling parameter at once, through the shipped planner and
real Steps, two in flight: drafts of seven kinds, one, three or eight rows a Step, one or two real
ranks, and preemption at random places by every rung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import pytest

from benchmark.engine.in_process import InProcessLoop, device_capacity
from router.scheduler.planner import Planner
from shard.wire.protocol import Sampling
from tests.support import tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.forked_ranks import ForkedRank
from tests.support.in_process import EndingRequest, RandomPolicy
from tests.support.nightly import thinned
from tests.support.pairs import Pair
from tests.support.ranks import connect_group, model_group
from tests.support.samplings import SAMPLINGS
from tests.support.tiny import VOCABULARY, engine

DRAFTERS = {"suffix": "suffix", "mixed": "auto"}
"""The drafter of each kind of drafts for which it is not the default."""
DRAFTS = ("no draft", "none accepted", "some accepted", "all accepted", "n-gram", *DRAFTERS)
BATCHES = (1, 3, 8)
PREEMPTIONS = ("never", "keep", "swap", "recompute")
KINDS = [(kind,) for kind in DRAFTS]
CELLS = [(batch, rung) for batch in BATCHES for rung in PREEMPTIONS]


@dataclass(frozen=True)
class Served:
    """Something that executes Steps, and whether it drafts."""

    engine: Any
    drafts: bool


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
        EndingRequest(id, prompt, 20, sampling)
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


@pytest.mark.parametrize(("kind", "batch", "rung"), thinned(KINDS, CELLS, 3))
def test_one_rank(ending_pair: Pair, kind: str, batch: int, rung: str) -> None:
    target, draft = ending_pair(kind)
    alone = tiny.swapping_engine(target, draft, DRAFTERS.get(kind))
    alone.reset()
    check(Served(alone, kind != "no draft"), target, batch, rung)


@pytest.fixture(scope="module")
def two_ranks(ending_pair: Pair) -> Iterator[Callable[[str], list[ForkedRank]]]:
    """`two_ranks(kind)` are ranks with that kind of draft; only those of the last kind run on."""
    running: dict[str, list[ForkedRank]] = {}
    with ExitStack() as stack:

        def start(kind: str) -> list[ForkedRank]:
            if kind not in running:
                stack.close()
                running.clear()
                drafter = DRAFTERS.get(kind)
                config = tiny.config(*ending_pair(kind), max_swap_tokens=1024, drafter=drafter)
                running[kind] = stack.enter_context(model_group(config, 2))
            return running[kind]

        yield start


@pytest.mark.parametrize(("kind", "batch", "rung"), thinned(KINDS, CELLS, 5))
def test_two_ranks(
    ending_pair: Pair,
    two_ranks: Callable[[str], list[ForkedRank]],
    kind: str,
    batch: int,
    rung: str,
) -> None:
    with connect_group(two_ranks(kind)) as group:
        check(Served(group, kind != "no draft"), ending_pair(kind)[0], batch, rung)
