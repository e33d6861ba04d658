"""The expected acceptance, measured on rounds of the engine itself."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from shard.attention.kv_cache import PAGE_SIZE
from shard.engine import start_engine
from shard.warmup.acceptance import MeasuredAcceptance, measure_acceptance
from shard.warmup.sample_prompts import TEXTS
from shard.warmup.step_costs import WarmupLimits
from shard.wire.protocol import End, NewRow, RowResult, RowWork, Step, StepResult
from tests.support import tiny
from tests.support.pairs import Model

PROMPTS = tuple(tuple(range(first, first + 10)) for first in range(4))


class Rounds:
    """Accepts two of the drafts of every round; checks that rows have room and are released.

    `ends`: in which round a row meets its end, which is the second draft that it accepts.
    """

    def __init__(self, ends: Mapping[int, int] | None = None) -> None:
        self.ends = ends or {}
        self.room: dict[int, int] = {}
        self.rounds = 0
        self.new: list[NewRow] = []

    def execute(self, step: Step) -> StepResult:
        for id in step.release:
            del self.room[id]
        for new, grow in zip(step.new, step.grow, strict=True):
            self.room[new.id] = min(len(grow.pages) * PAGE_SIZE, new.prompt + new.max_new)
            assert new.prompt == len(new.tokens)
            assert not new.ignore_eos
        self.new.extend(step.new)
        for run in step.run:
            self.room[run.id] -= run.prefill + run.draft + (not run.prefill)
            assert self.room[run.id] >= 0
        self.rounds += any(run.draft for run in step.run)
        return StepResult(step.number, 0.0, tuple(map(self._result, step.run)), 0)

    def _result(self, run: RowWork) -> RowResult:
        end = End.EOS if self.ends.get(run.id) == self.rounds else None
        accepted = min(2, run.draft)
        tokens = (1,) * (accepted + (end is None))
        return RowResult(run.id, tokens, (), run.draft, accepted, end)

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
        (WarmupLimits(16, 128, 4096), 5, 0.001, 4, 19),
        (WarmupLimits(16, 2048, 8), 5, 0.001, 4, 3),
        (WarmupLimits(16, 2048, 2), 5, 0.001, 2, 1),
        (WarmupLimits(16, 2048, 1), 64, 0.001, 1, 0),
    ],
)
def test_rounds_fit_into_the_budget_the_rows_and_the_pool(
    limits: WarmupLimits, draft: int, seconds: float, rows: int, rounds: int
) -> None:
    engine = Rounds()
    measured = measure_acceptance(engine, limits, draft, PROMPTS, seconds)
    assert engine.rounds == rounds
    assert engine.room == {}
    assert measured == MeasuredAcceptance(rows * rounds, 2 * rows * rounds, rows * rounds)
    longest = max(1, min(limits.length, limits.pages // rows * PAGE_SIZE) // 4)
    prompts = PROMPTS[: rows if rounds else 0]
    assert [row.tokens for row in engine.new] == [prompt[:longest] for prompt in prompts]


def test_every_other_answer_is_greedy_and_the_others_are_sampled() -> None:
    engine = Rounds()
    measure_acceptance(engine, WarmupLimits(16, 2048, 4096), 5, PROMPTS, 0.1)
    assert [row.sampling.temperature for row in engine.new] == [0.0, 1.0, 0.0, 1.0]
    assert len({row.sampling.seed for row in engine.new}) == len(PROMPTS)


@pytest.mark.parametrize(
    ("ends", "rounds", "measured"),
    [
        ({0: 1, 1: 1, 2: 1, 3: 1}, 1, MeasuredAcceptance(4, 8, 0)),
        ({0: 0, 1: 0, 2: 0, 3: 0}, 0, MeasuredAcceptance(0, 0, 0)),
        ({0: 0, 1: 2, 2: 1, 3: 3}, 3, MeasuredAcceptance(6, 12, 3)),
        ({2: 4}, 32, MeasuredAcceptance(3 * 32 + 4, 2 * (3 * 32 + 4), 3 * 32 + 3)),
    ],
)
def test_an_answer_that_has_ended_takes_part_no_longer(
    ends: dict[int, int], rounds: int, measured: MeasuredAcceptance
) -> None:
    engine = Rounds(ends)
    assert measure_acceptance(engine, WarmupLimits(16, 2048, 4096), 5, PROMPTS, 0.0) == measured
    assert engine.rounds == rounds
    assert engine.room == {}


def test_the_line_says_the_rate_and_the_tokens_of_a_round() -> None:
    assert str(MeasuredAcceptance(rounds=50, accepted=40, rejected=40)) == (
        "expected acceptance 50%, 1.8 tokens per round"
        " (80 drafts compared in answers to sample prompts)"
    )
    assert str(MeasuredAcceptance(40, 0, 0)) == "expected acceptance 0%: it drafts nothing"


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("the target itself", 100, 100), ("another model", 0, 60)]
)
def test_a_start_logs_the_expected_acceptance_of_a_draft_model_once(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, low: int, high: int
) -> None:
    target = str(shutil.copytree(model("llama"), tmp_path / "model"))
    draft = target if kind == "the target itself" else model("llama", 1)
    save_words(Path(target))
    with caplog.at_level(logging.INFO):
        start_engine(tiny.config(target, draft), lambda *_: None)
    [line] = [r.getMessage() for r in caplog.records if "expected acceptance" in r.getMessage()]
    head, _, rest = line.partition("%")
    assert head.startswith("drafter `model`: expected acceptance ")
    assert low <= int(head.rpartition(" ")[2]) <= high
    assert "tokens per round" in rest


def save_words(folder: Path) -> None:
    """Write a tokenizer whose ids a tiny model has."""
    words = sorted({word for text in TEXTS for word in text.split()})
    model = WordLevel({word: id for id, word in enumerate(["?", *words])}, unk_token="?")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def test_a_start_says_why_the_acceptance_cannot_be_measured(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        start_engine(tiny.config(model("llama"), model("llama", 1)), lambda *_: None)
    [line] = [r.getMessage() for r in caplog.records if "expected acceptance" in r.getMessage()]
    assert line == (
        "drafter `model`: the expected acceptance cannot be measured: tokenizer.json is missing"
    )


def test_prompt_lookup_has_no_expected_acceptance(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        start_engine(tiny.config(model("llama")), lambda *_: None)
    assert "expected acceptance" not in caplog.text
