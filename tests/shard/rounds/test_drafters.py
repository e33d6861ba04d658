"""With every drafter the tokens are the target's, and a draft model works through any id map."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shard.engine import Engine, start_engine
from shard.errors import StartupError
from shard.rounds import model_drafter
from shard.wire.protocol import AppendPages, NewRow, Ready, RowResult, RowWork, Sampling, Step
from tests.support import driver, tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.nightly import thinned
from tests.support.pairs import PIECES, Model, renumbered, with_vocabulary
from tests.support.samplings import SAMPLED
from tests.support.tiny import VOCABULARY, engine

GREEDY = Sampling()
PLANS = [DrivePlan(draft=4, batch=batch) for batch in (1, 3, 8)]
PLANS += [
    DrivePlan(draft_lengths=(0, 1, 5, 3), batch=8),
    DrivePlan(draft_lengths=(5, 0), batch=3, chunk=4),
]


def asks(sampling: Sampling) -> list[RowSpec]:
    """Eight prompts; every other one repeats itself, so that prompt lookup has work."""
    rng = random.Random(3)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(size)] for size in (1, 6, 17, 9) * 2]
    prompts = [p * 3 if place % 2 else p for place, p in enumerate(prompts)]
    return [RowSpec(tuple(p), 20, replace(sampling, seed=i)) for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def pairs(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    """One target under every kind of drafter."""
    place = tmp_path_factory.mktemp("drafts")
    target = with_vocabulary(model("llama"), place / "target", PIECES)
    order = random.Random(5).sample(range(VOCABULARY), VOCABULARY)
    return {
        "ngram": engine(target),
        "random": engine(target, with_vocabulary(model("llama", 1), place / "random", PIECES)),
        "padded": engine(target, with_vocabulary(model("llama-wide"), place / "wide", PIECES)),
        "shuffled": engine(target, renumbered(model("llama"), place / "shuffled", order)),
        "part": engine(target, renumbered(model("llama"), place / "part", order[:70])),
        "shorter": engine(
            with_vocabulary(model("llama-wide"), place / "wide-target", PIECES),
            with_vocabulary(model("llama", 1), place / "narrow", PIECES),
        ),
    }


KINDS = ("ngram", "random", "padded", "shuffled", "part", "shorter")


def items(engine: Engine, sampling: Sampling, plan: DrivePlan) -> list[RowResult]:
    engine.reset()
    return driver.run_steps(asks(sampling), plan, lambda step: engine.execute(step).items)


@pytest.mark.parametrize(
    ("kind", "sampling"), thinned([(kind,) for kind in KINDS], [(GREEDY,), (SAMPLED,)], 2)
)
def test_tokens_are_those_of_plain_decoding_whoever_drafts(
    pairs: dict[str, Engine], kind: str, sampling: Sampling
) -> None:
    plain = drive(pairs[kind], asks(sampling), DrivePlan(batch=1))
    for plan in PLANS:
        assert drive(pairs[kind], asks(sampling), plan) == plain, plan


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_draft_with_the_targets_weights_under_other_ids_is_accepted_whole(
    pairs: dict[str, Engine], sampling: Sampling
) -> None:
    done = items(pairs["shuffled"], sampling, DrivePlan(draft=4))
    assert sum(item.drafted for item in done) > 100
    assert all(item.accepted == item.drafted for item in done)


def test_a_draft_that_knows_a_part_of_the_tokens_drafts_only_after_those(
    pairs: dict[str, Engine],
) -> None:
    done = items(pairs["part"], SAMPLED, DrivePlan(draft=4))
    assert sum(item.drafted for item in done) > sum(item.accepted for item in done) > 0
    part = tiny.model_drafter(pairs["part"])
    known = {token for token in range(VOCABULARY) if part.vocabulary_map.has_token(token)}
    assert len(known) == 70
    for before, after in _neighbours(done):
        assert (after.drafted > 0) <= (before.tokens[-1] in known)


def _neighbours(done: list[RowResult]) -> list[tuple[RowResult, RowResult]]:
    rows: dict[int, list[RowResult]] = {}
    for item in done:
        rows.setdefault(item.id, []).append(item)
    return [pair for row in rows.values() for pair in pairwise(row)]


def test_prompt_lookup_is_accepted_where_the_output_repeats_itself(
    pairs: dict[str, Engine],
) -> None:
    done = items(pairs["ngram"], GREEDY, DrivePlan(draft=5))
    assert sum(item.accepted for item in done) > 20


def test_a_gap_is_closed_in_parts_and_drafting_then_resumes(
    pairs: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty Steps without drafts, then eight tokens of the gap in each Step with."""
    monkeypatch.setattr(model_drafter, "MAX_CATCH_UP_TOKENS", 8)
    served = pairs["shuffled"]
    [plain] = drive(served, [RowSpec((5, 6, 7), 60, SAMPLED)], DrivePlan())
    served.reset()
    new = NewRow(1, (5, 6, 7), 3, 60, False, SAMPLED)
    step = Step(1, (), (new,), (AppendPages(1, (1, 2, 3, 4, 5)),), (RowWork(1, 3, 0),))
    done = list(served.execute(step).items)
    for draft in [0] * 20 + [3] * 60:
        done += served.execute(Step(1, (), (), (), (RowWork(1, 0, draft),))).items
    assert [token for item in done for token in item.tokens] == plain
    drafted = [item.drafted for item in done[21:]]
    assert drafted[:4] == [0, 0, 3, 3]


def test_a_draft_of_another_vocabulary_is_refused_with_sizes_and_a_token(
    model: Model, tmp_path: Path
) -> None:
    target = with_vocabulary(model("llama"), tmp_path / "target", PIECES)
    draft = with_vocabulary(
        model("llama", 1), tmp_path / "draft", {f"other {id}": id for id in range(50)}
    )
    with pytest.raises(
        StartupError, match=r"\(50 tokens\) shares 0 with the target's \(101\)"
    ) as caught:
        start_engine(tiny.config(str(target), str(draft)), lambda text, percent: None)
    assert caught.value.code == 4
    assert "'other 0' is 0 in the draft, absent in the target" in caught.value.text


def measured(model: str, draft: str | None = None, **changes: Any) -> Ready:
    return start_engine(tiny.config(model, draft, **changes), lambda text, percent: None).ready()


def test_ready_says_who_drafts_and_what_it_costs(model: Model) -> None:
    ready = measured(model("llama"), model("llama", 1))
    assert (ready.drafter, ready.speculate) == ("model", 5)
    assert {(cost.rows, cost.draft) for cost in ready.costs} >= {(1, 0), (1, 1), (1, 5)}
    ngram = measured(model("llama"))
    assert (ngram.drafter, ngram.catch_up_seconds) == ("ngram", 0)
    plain = measured(model("llama"), speculate=0)
    assert (plain.drafter, plain.speculate) == ("", 0)
    assert {cost.draft for cost in plain.costs} == {0}
