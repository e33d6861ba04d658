"""Every drafter of the table keeps the contract of `shard.rounds.drafter.Drafter`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from shard.batch.rows import CachedRow
from shard.config import DRAFTER_NAMES
from shard.drafters import DRAFTERS
from shard.engine import Engine, start_engine
from shard.errors import StartupError
from shard.rounds.drafter import Drafter, DraftRequest
from shard.wire.protocol import AppendPages, NewRow, RowResult, RowWork, Sampling, Step
from tests.support import driver, tiny
from tests.support.driver import DrivePlan, RowSpec
from tests.support.samplings import GREEDY, SAMPLED
from tests.support.tiny import VOCABULARY

Model = Callable[..., str]
PLANS = [
    DrivePlan(draft=4, batch=1),
    DrivePlan(draft=4, scattered=True),
    DrivePlan(draft_lengths=(0, 1, 5, 3), chunk=4),
]


@cache
def engine_with(name: str, target: str, draft: str, **changes: Any) -> Engine:
    return tiny.unmeasured_engine(tiny.config(target, draft, drafter=name, **changes))


@pytest.fixture(params=DRAFTERS)
def served(request: pytest.FixtureRequest, model: Model) -> Engine:
    """An engine that drafts with one entry of the table."""
    return engine_with(request.param, model("llama"), model("llama", 1))


def drafter_of(engine: Engine) -> Drafter:
    assert engine._drafter is not None
    return engine._drafter


def specs(sampling: Sampling) -> list[RowSpec]:
    """Prompts of 1 to 27 tokens; half of them repeat themselves."""
    rng = random.Random(3)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(size)] for size in (1, 6, 17, 9)]
    prompts = [prompt * 3 if index % 2 else prompt for index, prompt in enumerate(prompts)]
    return [RowSpec(tuple(p), 24, replace(sampling, seed=i)) for i, p in enumerate(prompts)]


def results(engine: Engine, specs: Sequence[RowSpec], plan: DrivePlan) -> list[RowResult]:
    engine.reset()
    return driver.run_steps(specs, plan, lambda step: engine.execute(step).items)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_tokens_are_those_of_an_engine_without_a_drafter(
    served: Engine, model: Model, plan: DrivePlan, sampling: Sampling
) -> None:
    plain = driver.drive(tiny.engine(model("llama")), specs(sampling), DrivePlan(batch=1))
    done = results(served, specs(sampling), plan)
    assert driver.tokens_by_row(done, len(plain)) == plain
    if sampling == GREEDY or not drafter_of(served).may_abstain:
        assert sum(item.drafted for item in done) > 0


def test_it_proposes_the_same_tokens_alone_and_in_a_batch(served: Engine) -> None:
    """Ranks hold equal rows, but a retry may split their round."""
    if drafter_of(served).remembers:
        pytest.skip("one row after another, each finds the answers of those before it")

    def drafted(plan: DrivePlan) -> dict[int, list[tuple[int, int]]]:
        done = results(served, specs(SAMPLED), plan)
        return {
            id: [(item.drafted, item.accepted) for item in done if item.id == id]
            for id in range(len(specs(SAMPLED)))
        }

    assert drafted(DrivePlan(draft=4, batch=1)) == drafted(DrivePlan(draft=4))


def test_it_is_announced_under_its_name_in_the_table(served: Engine) -> None:
    drafter = drafter_of(served)
    assert served.ready().drafter == drafter.name
    assert drafter.name in DRAFTERS


def test_the_flag_offers_every_drafter_of_the_table() -> None:
    assert tuple(DRAFTERS) == DRAFTER_NAMES


def test_it_measures_catching_up_if_and_only_if_it_keeps_a_cache(served: Engine) -> None:
    drafter = drafter_of(served)
    assert drafter.keeps_cache == bool(drafter.caches)
    assert drafter.keeps_cache or served.ready().catch_up_seconds == 0.0


def test_its_caches_have_the_pages_of_the_target(served: Engine) -> None:
    pages = len(served._target.cache.pools_by_page[0])
    for cache_ in drafter_of(served).caches:
        assert {len(pool) for pool in cache_.pools_by_page} == {pages}


def row(id: int, tokens: list[int]) -> CachedRow:
    pages = list(range(1 + 4 * id, 5 + 4 * id))
    cached = len(tokens) - 1
    return CachedRow(id, tokens, len(tokens), 9, False, GREEDY, pages=pages, cached=cached)


def propose(drafter: Drafter, row: CachedRow, count: int) -> list[int]:
    request = DraftRequest(row, count)
    drafter.propose([request], [])
    drafter.rollback(request, len(row.tokens), 0)
    return list(request.drafts)


def test_it_fills_every_request_unless_it_may_abstain(served: Engine) -> None:
    served.reset()
    drafter = drafter_of(served)
    for count in (1, 4):
        for tokens in ([5, 6, 7, 8], [5, 6, 5, 6, 5]):
            drafts = propose(drafter, row(count, tokens), count)
            drafter.remove([count])
            assert len(drafts) <= count
            assert len(drafts) == count or drafter.may_abstain
            assert all(0 <= token < VOCABULARY for token in drafts)


def test_it_forgets_a_row_that_is_released(served: Engine) -> None:
    """A row with the same id and other tokens gets the drafts of a fresh drafter."""
    served.reset()
    drafter = drafter_of(served)
    old, new = [5, 6, 7] * 5, [9, 8] * 8
    propose(drafter, row(1, old), 3)
    drafter.remove([1])
    after_removal = propose(drafter, row(1, new), 3)
    drafter.clear()
    assert after_removal == propose(drafter, row(1, new), 3)


def test_a_row_that_returns_after_it_lost_its_pages_goes_on_with_the_same_tokens(
    served: Engine, model: Model
) -> None:
    spec = RowSpec((5, 6, 7) * 3, 30, SAMPLED)
    [whole] = driver.drive(tiny.engine(model("llama")), [spec], DrivePlan())
    served.reset()
    known, emitted = spec.prompt, list[int]()
    for number in range(3):
        new = NewRow(1, known, len(spec.prompt), spec.max_new, False, SAMPLED)
        pages = AppendPages(1, tuple(range(1 + 4 * number, 5 + 4 * number)))
        release = (1,) if number else ()
        step = Step(1, release, (new,), (pages,), (RowWork(1, len(known), 0),))
        emitted += served.execute(step).items[0].tokens
        for _ in range(2):
            step = Step(1, (), (), (), (RowWork(1, 0, 3),))
            emitted += served.execute(step).items[0].tokens
        known = (*spec.prompt, *emitted)
    assert emitted == whole[: len(emitted)]


def test_in_device_rounds_it_proposes_what_it_proposes_on_the_host_if_it_is_resident(
    served: Engine, model: Model
) -> None:
    name = drafter_of(served).name
    device = engine_with(name, model("llama"), model("llama", 1), resident=True)
    plan = DrivePlan(draft=3)
    on_host, on_device = (results(engine, specs(SAMPLED_ONLY), plan) for engine in (served, device))
    assert [item.tokens for item in on_device] == [item.tokens for item in on_host]
    assert [item.accepted for item in on_device] == [item.accepted for item in on_host]


SAMPLED_ONLY = Sampling(temperature=0.8)
"""What a device round can do."""


def test_a_drafter_that_is_not_in_the_table_is_refused_with_those_that_are(model: Model) -> None:
    with pytest.raises(StartupError, match="no drafter `medusa`") as caught:
        start_engine(tiny.config(model("llama"), drafter="medusa"), lambda text, percent: None)
    assert caught.value.code == 2
    assert all(name in caught.value.text for name in DRAFTERS)


def test_a_drafter_that_needs_a_draft_model_is_refused_without_one(model: Model) -> None:
    with pytest.raises(StartupError, match="needs a draft model"):
        start_engine(tiny.config(model("llama"), drafter="model"), lambda text, percent: None)
