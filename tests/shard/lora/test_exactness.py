"""Rows with different adapters in one Step get the tokens of the models merged with them.

In every combination with drafts, batches, shared prefixes and preemption; fused and not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmark.engine.in_process import (
    InProcessLoop,
    InProcessRequest,
    StepStarter,
    device_capacity,
)
from router.scheduler.planner import Planner
from shard.engine import Engine
from tests.support import tiny
from tests.support.adapters import ALL_LAYERS, merge, save_adapter
from tests.support.driver import (
    ENGINE_PLANS,
    DrivePlan,
    RowSpec,
    drive,
)
from tests.support.in_process import RandomPolicy
from tests.support.ranks import connect_group, model_group
from tests.support.samplings import GREEDY, SAMPLED
from tests.support.tiny import VOCABULARY

Model = Callable[..., str]
ADAPTERS, MANY = 8, 64


@dataclass(frozen=True)
class Adapted:
    """An engine with adapters, and the models that they are merged into; number 0 is the base."""

    engine: Engine
    merged: Sequence[str]


def adapter_fields(number: int) -> dict[str, Any]:
    """Different ranks, layers and scales."""
    targets = [["q_proj", "v_proj"], ALL_LAYERS, ["o_proj", "down_proj"], "all-linear"]
    return {"r": 1 + 3 * number, "lora_alpha": 5, "target_modules": targets[number % 4]}


def build(model: str, folder: Path, draft: str | None = None, count: int = ADAPTERS) -> Adapted:
    paths, merged = [], [model]
    for number in range(count):
        fields = adapter_fields(number)
        paths.append(save_adapter(model, folder / f"{number}", number, **fields))
        scale = 5 / (1 + 3 * number)
        merged.append(merge(model, paths[-1], folder / f"merged-{number}", scale))
    config = tiny.config(model, draft, max_swap_tokens=1024, adapters=True)
    return Adapted(
        tiny.unmeasured_engine(replace(config, adapter_paths=tuple(map(str, paths)))), merged
    )


@pytest.fixture(scope="module")
def adapted(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Adapted]:
    """`adapted(name)` is an engine with the adapters, and a draft of the base."""
    built: dict[str, Adapted] = {}

    def get(name: str) -> Adapted:
        if name not in built:
            folder = tmp_path_factory.mktemp(f"adapters-{name}")
            built[name] = build(model(name), folder, model(name, 1))
        return built[name]

    return get


def specs(common: int = 0, adapters: int = ADAPTERS) -> list[RowSpec]:
    """Two rows for each adapter and for the base, neighbours with different ones."""
    random = Random(7)
    head = tuple(random.randrange(VOCABULARY) for _ in range(common))
    return [
        RowSpec(
            head + tuple(random.randrange(VOCABULARY) for _ in range(random.randint(2, 30))),
            16,
            replace((GREEDY, SAMPLED)[index % 2], seed=index),
            adapter=index % (adapters + 1),
        )
        for index in range(2 * (adapters + 1))
    ]


def expected(adapted: Adapted, rows: Sequence[RowSpec]) -> list[list[int]]:
    """The tokens of the merged models, one row at a time, without drafts."""
    results: dict[int, list[int]] = {}
    for number, path in enumerate(adapted.merged):
        own = [index for index, row in enumerate(rows) if row.adapter == number]
        alone = [replace(rows[index], adapter=0) for index in own]
        results |= zip(own, drive(tiny.engine(path), alone, DrivePlan(batch=1)), strict=True)
    return [results[index] for index in range(len(rows))]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("plan", ["drafts of 5", "prefill in chunks of 4"])
def test_eight_adapters_in_one_step_give_the_tokens_of_merged_models(
    adapted: Callable[[str], Adapted], name: str, plan: str
) -> None:
    own, rows = adapted(name), specs()
    found = drive(own.engine, rows, ENGINE_PLANS[plan])
    assert found == expected(own, rows)
    assert len({tuple(tokens) for tokens in found}) == len(rows)


def test_sixty_four_adapters_are_live_at_once(model: Model, tmp_path: Path) -> None:
    """Rows of 32 of them are in each Step, with drafts; the ranks are 1, 4, ..., 190."""
    own, rows = build(model("llama"), tmp_path, model("llama", 1), MANY), specs(adapters=MANY)
    found = drive(own.engine, rows, replace(ENGINE_PLANS["drafts of 5"], batch=MANY // 2))
    assert found == expected(own, rows)
    assert len({tuple(tokens) for tokens in found}) == len(rows)


def serve(
    engine: StepStarter, rows: Sequence[RowSpec], **capacity: object
) -> tuple[list[list[int]], Planner]:
    """The tokens of `rows` under an order that changes at random, and what planned them."""
    scheduler = Planner(device_capacity(engine.ready(), **capacity), RandomPolicy(Random(5), 0.3))
    loop = InProcessLoop(engine, scheduler)
    requests = [
        InProcessRequest(id, row.prompt, row.max_new, row.sampling, adapter=row.adapter)
        for id, row in enumerate(rows)
    ]
    for request in requests:
        loop.submit(request)
    loop.run()
    return [request.emitted for request in requests], scheduler


@pytest.mark.parametrize("rung", ["swap", "recompute"])
def test_adapters_stay_exact_under_preemption_and_shared_prefixes(
    adapted: Callable[[str], Adapted], rung: str
) -> None:
    own, rows = adapted("llama"), specs(common=40)
    own.engine.reset()
    found, scheduler = serve(own.engine, rows, pages=24, preemption=rung, prefill_tokens=32)
    assert found == expected(own, rows)
    assert scheduler.status().preemptions[rung] > 0


def test_a_prefix_is_shared_within_an_adapter_and_never_across(
    adapted: Callable[[str], Adapted],
) -> None:
    own, prompt = adapted("llama"), tuple(range(48))
    own.engine.reset()
    loop = InProcessLoop(
        own.engine, Planner(device_capacity(own.engine.ready()), RandomPolicy(Random(1), 0.0))
    )
    computed = []
    for id, adapter in enumerate([0, 1, 2, 1, 0]):
        request = InProcessRequest(id, (*prompt, id), 4, GREEDY, adapter=adapter)
        loop.submit(request)
        loop.run()
        computed.append(request.prefilled)
    assert computed == [49, 49, 49, 1, 1]


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_two_shards_give_the_tokens_of_merged_models(
    model: Model, tmp_path: Path, name: str
) -> None:
    path, merged, paths = model(name), [model(name)], []
    for number in range(3):
        fields: dict[str, Any] = {"r": 2 + number, "target_modules": "all-linear", "lora_alpha": 5}
        paths.append(save_adapter(path, tmp_path / f"{number}", number, **fields))
        merged.append(merge(path, paths[-1], tmp_path / f"merged-{number}", 5 / (2 + number)))
    config = tiny.config(
        path, model("llama", 1), adapters=True, adapter_paths=tuple(map(str, paths))
    )
    rows = [row for row in specs() if row.adapter < len(merged)]
    with model_group(config, 2) as ranks, connect_group(ranks) as group:
        found, _ = serve(group, rows, pages=12, preemption="recompute")
    assert found == expected(Adapted(tiny.engine(path), merged), rows)
