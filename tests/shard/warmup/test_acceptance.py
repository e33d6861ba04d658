"""The expected acceptance, measured on rounds of the engine itself."""

from __future__ import annotations

import logging

import pytest

from shard.attention.kv_cache import PAGE_SIZE
from shard.engine import start_engine
from shard.warmup.acceptance import MeasuredAcceptance, measure_acceptance
from shard.warmup.step_costs import WarmupLimits
from shard.wire.protocol import RowResult, Step, StepResult
from tests.support import tiny
from tests.support.pairs import Model


class Rounds:
    """Accepts two of the drafts of every round; checks that rows have room and are released."""

    def __init__(self) -> None:
        self.room: dict[int, int] = {}
        self.rounds = 0
        self.seeds: list[int] = []

    def execute(self, step: Step) -> StepResult:
        for id in step.release:
            del self.room[id]
        for new, grow in zip(step.new, step.grow, strict=True):
            self.room[new.id] = min(len(grow.pages) * PAGE_SIZE, new.prompt + new.max_new)
            self.seeds.append(new.sampling.seed)
            assert new.sampling.temperature == 1.0
        for run in step.run:
            self.room[run.id] -= run.draft + 1
            assert self.room[run.id] >= 0
        self.rounds += any(run.draft for run in step.run)
        items = tuple(RowResult(r.id, (), (), r.draft, min(2, r.draft), None) for r in step.run)
        return StepResult(step.number, 0.0, items, 0)

    def reset(self) -> None:
        self.room.clear()


@pytest.mark.parametrize(
    ("limits", "draft", "seconds", "rows", "rounds"),
    [
        (WarmupLimits(16, 2048, 4096), 5, 0.001, 4, 32),
        (WarmupLimits(16, 2048, 4096), 5, 0.0, 4, 32),
        (WarmupLimits(16, 2048, 4096), 5, 0.05, 4, 10),
        (WarmupLimits(16, 2048, 4096), 5, 9.0, 4, 4),
        (WarmupLimits(2, 2048, 4096), 5, 0.001, 2, 32),
        (WarmupLimits(16, 128, 4096), 5, 0.001, 4, 21),
        (WarmupLimits(16, 2048, 8), 5, 0.001, 4, 5),
        (WarmupLimits(16, 2048, 2), 5, 0.001, 2, 2),
        (WarmupLimits(16, 2048, 1), 64, 0.001, 1, 0),
    ],
)
def test_rounds_fit_into_the_budget_the_rows_and_the_pool(
    limits: WarmupLimits, draft: int, seconds: float, rows: int, rounds: int
) -> None:
    engine = Rounds()
    found = measure_acceptance(engine, limits, draft, 7, seconds)
    assert engine.rounds == rounds
    assert engine.room == {}
    assert found == MeasuredAcceptance(rows * rounds, draft * rows * rounds, 2 * rows * rounds)
    assert engine.seeds == list(range(rows if rounds else 0))


def test_the_line_says_the_rate_and_the_tokens_of_a_round() -> None:
    assert str(MeasuredAcceptance(40, 200, 50)) == (
        "expected acceptance 25%, 2.2 tokens per round"
        " (200 drafts in text that the target samples without a prompt)"
    )
    assert str(MeasuredAcceptance(40, 0, 0)) == "expected acceptance 0%: it drafts nothing"


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("the target itself", 100, 100), ("another model", 0, 60)]
)
def test_a_start_logs_the_expected_acceptance_of_a_draft_model_once(
    model: Model, caplog: pytest.LogCaptureFixture, kind: str, low: int, high: int
) -> None:
    draft = model("llama") if kind == "the target itself" else model("llama", 1)
    with caplog.at_level(logging.INFO):
        start_engine(tiny.config(model("llama"), draft), lambda *_: None)
    [line] = [r.getMessage() for r in caplog.records if "expected acceptance" in r.getMessage()]
    head, _, rest = line.partition("%")
    assert head.startswith("drafter `model`: expected acceptance ")
    assert low <= int(head.rpartition(" ")[2]) <= high
    assert "tokens per round" in rest


def test_prompt_lookup_has_no_expected_acceptance(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        start_engine(tiny.config(model("llama")), lambda *_: None)
    assert "expected acceptance" not in caplog.text
