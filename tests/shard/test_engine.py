"""The claim of the engine: whatever the plan, the tokens are the target's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import product
from typing import Any

import pytest

from shard import progress
from shard.engine import Engine
from shard.wire.protocol import (
    AppendPages,
    End,
    NewRow,
    ProtocolError,
    RowResult,
    RowWork,
    Sampling,
    Step,
)
from tests.support import driver
from tests.support.driver import ENGINE_PLANS, DrivePlan, RowSpec, drive, engine_specs
from tests.support.nightly import nightly, thinned
from tests.support.reference import choose_greedily, generate_greedily
from tests.support.samplings import SAMPLED
from tests.support.tiny import PAGED, engine

Model = Callable[..., str]

KINDS = {"greedy": Sampling(), "sampled": SAMPLED}


PENALTIES = pytest.mark.parametrize("penalty", [1.0, 1.3])


@pytest.mark.parametrize("name", PAGED)
@PENALTIES
def test_greedy_tokens_are_those_that_transformers_chooses(
    model: Model, name: str, penalty: float
) -> None:
    path = model(name)
    wanted = engine_specs(Sampling(repetition_penalty=penalty))
    emitted = drive(engine(path), wanted, DrivePlan())
    assert emitted == [*map(partial(choose_greedily, path), wanted, emitted)]


@pytest.mark.parametrize("name", ["llama", *map(nightly, PAGED[1:])])
@PENALTIES
def test_greedy_tokens_are_those_that_transformers_generates(
    model: Model, name: str, penalty: float
) -> None:
    path = model(name)
    wanted = engine_specs(Sampling(repetition_penalty=penalty))
    expected = [generate_greedily(path, ask) for ask in wanted]
    assert drive(engine(path), wanted, DrivePlan()) == expected


def test_longrope_is_served_as_far_as_rows_do_not_change_each_other(model: Model) -> None:
    path = model("phi3-longrope")
    served = engine(path, model("llama", 1))
    assert served.max_length == served.ready().max_length == 48
    wanted = [replace(ask, max_new=48 - len(ask.prompt)) for ask in engine_specs(Sampling())]
    emitted = drive(served, wanted, DrivePlan(batch=1))
    assert emitted == [*map(partial(choose_greedily, path), wanted, emitted)]
    for plan in ENGINE_PLANS.values():
        assert drive(served, wanted, plan) == emitted


@pytest.mark.parametrize(
    ("name", "kind", "plan"),
    thinned([(name,) for name in PAGED], list(product(KINDS, ENGINE_PLANS)), 9),
)
def test_tokens_do_not_depend_on_draft_batch_chunks_or_pages(
    model: Model, name: str, kind: str, plan: str
) -> None:
    drafted = engine(model(name), model("llama", 1))
    assert drive(drafted, engine_specs(KINDS[kind]), ENGINE_PLANS[plan]) == plain(drafted, kind)


@cache
def plain(served: Engine, kind: str) -> list[list[int]]:
    """The tokens of `engine_specs` without drafts, one row at a time."""
    return drive(served, engine_specs(KINDS[kind]), DrivePlan(batch=1))


@pytest.mark.parametrize("name", PAGED)
def test_a_step_makes_progress_with_every_layer(model: Model, name: str) -> None:
    served, counts = engine(model(name)), []

    def execute(step: Step) -> tuple[RowResult, ...]:
        before = progress.count()
        items = served.execute(step).items
        if items:
            counts.append(progress.count() - before)
        return items

    driver.run_steps(engine_specs(Sampling()), DrivePlan(batch=1), execute)
    assert min(counts) >= len(served._target.facts.shapes)


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_a_draft_that_equals_the_target_is_accepted_whole(model: Model, sampling: Sampling) -> None:
    twin = engine(model("llama"), model("llama"))
    twin.reset()
    items = driver.run_steps(
        engine_specs(sampling), DrivePlan(draft=3), lambda step: twin.execute(step).items
    )
    assert sum(item.drafted for item in items) > 0
    assert all(item.accepted == item.drafted for item in items)


def test_a_row_is_resumed_token_exactly_after_it_lost_its_pages(model: Model) -> None:
    served = engine(model("llama"), model("llama", 1))
    ask = RowSpec((5, 6, 7), 40, SAMPLED)
    [whole] = drive(served, [ask], DrivePlan(draft=3))
    known = (*ask.prompt, *whole[:17])
    served.reset()
    resumed = NewRow(1, known, len(ask.prompt), ask.max_new, False, SAMPLED)
    grow = AppendPages(1, (9, 10, 11, 12))
    first = served.execute(Step(1, (), (resumed,), (grow,), (RowWork(1, len(known), 0),)))
    rest = list(first.items[0].tokens)
    while len(rest) < len(whole) - 17:
        rest += served.execute(Step(2, (), (), (), (RowWork(1, 0, 3),))).items[0].tokens
    assert rest == whole[17:]


def test_eos_inside_an_accepted_run_ends_the_row_there(model: Model) -> None:
    twin = engine(model("llama"), model("llama"))
    [whole] = drive(twin, [RowSpec((5, 6, 7))], DrivePlan())
    eos = whole[6]
    stopped = frozenset({eos})
    kept = twin._target.facts
    twin._target.facts = replace(kept, eos=stopped)
    try:
        [ended] = drive(twin, [RowSpec((5, 6, 7))], DrivePlan(draft=5))
    finally:
        twin._target.facts = kept
    assert ended == whole[: whole.index(eos) + 1]


def test_a_row_that_ended_is_skipped_when_a_planned_step_still_names_it(model: Model) -> None:
    served = engine(model("llama"))
    served.reset()
    new = NewRow(1, (5, 6), 2, 1, False, Sampling())
    first = served.execute(Step(1, (), (new,), (AppendPages(1, (1,)),), (RowWork(1, 2, 0),)))
    assert first.items[0].end is End.LENGTH
    assert served.execute(Step(2, (), (), (), (RowWork(1, 0, 0),))).items == ()


def test_a_row_whose_logits_are_not_numbers_ends_alone(model: Model) -> None:
    served = engine(model("llama"))
    module: Any = served._target.facts.module
    poison = module.get_input_embeddings().weight
    saved = poison[3].clone()
    poison[3] = float("nan")
    try:
        served.reset()
        bad = NewRow(1, (3,), 1, 4, False, Sampling())
        good = NewRow(2, (5,), 1, 4, False, Sampling())
        grow = (AppendPages(1, (1,)), AppendPages(2, (2,)))
        step = Step(1, (), (bad, good), grow, (RowWork(1, 1, 0), RowWork(2, 1, 0)))
        ends = [item.end for item in served.execute(step).items]
    finally:
        poison[3] = saved
    assert ends == [End.ERROR, None]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(1, (), (), (), (RowWork(9, 1, 0),)), "row 9 is not in the table"),
        (
            Step(
                1, (), (NewRow(1, (5,) * 20, 20, 4, False, Sampling()),), (), (RowWork(1, 20, 0),)
            ),
            "row 1 has no page for position 19",
        ),
        (
            Step(
                1,
                (),
                (NewRow(1, (5, 6), 2, 4, False, Sampling()),),
                (AppendPages(1, (1,)),),
                (RowWork(1, 0, 0),),
            ),
            "its prefill is not finished",
        ),
    ],
)
def test_a_step_that_does_not_fit_is_refused(model: Model, step: Step, reason: str) -> None:
    served = engine(model("llama"))
    served.reset()
    with pytest.raises(ProtocolError, match=reason):
        served.execute(step)
