"""Costs and traces are what the engine does: fitted, recorded and replayed on the bundled pair."""

import argparse
import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from tokenizers import Tokenizer

from benchmark.demo.engine import DEMO
from benchmark.demo.prompts import prompts
from benchmark.engine.driver import drive, start
from benchmark.recording import costs as record_costs
from benchmark.recording import datasets
from benchmark.recording import traces as record_traces
from benchmark.simulation import step_costs, traces
from benchmark.simulation.step_costs import LLAMA_7B, StepCosts, StepWork


def test_the_fit_finds_the_coefficients_that_made_the_steps() -> None:
    works = [
        StepWork(rows, rows * draft, draft, rows * held, chunk, int(chunk > 0), missed, moved)
        for rows in (1, 2, 8)
        for draft in (0, 2, 5)
        for held in (16, 300)
        for chunk in (0, 100)
        for missed in (0, 16)
        for moved in (0, 64)
    ]
    samples = [(work, LLAMA_7B.seconds(work)) for work in works]
    fitted = step_costs.fit(samples)
    assert step_costs.error(fitted, samples) < 1e-6
    assert fitted.draft_step == pytest.approx(LLAMA_7B.draft_step, rel=1e-3)
    known = step_costs.fit(samples, swap=LLAMA_7B.swap)
    assert known.swap == LLAMA_7B.swap
    with pytest.raises(ValueError, match="3 Steps do not determine 9 coefficients"):
        step_costs.fit(samples[:3])


def test_no_coefficient_is_negative_where_noise_says_so() -> None:
    samples = [(StepWork(rows, 0, 0, 10 * rows), 1.0 - 0.01 * rows) for rows in range(1, 12)]
    fitted = step_costs.fit(samples)
    assert min(vars_of(fitted).values()) >= 0


def vars_of(costs: StepCosts) -> dict[str, float]:
    return {name: getattr(costs, name) for name in StepCosts.__dataclass_fields__}


def test_a_scheduler_is_told_the_same_costs() -> None:
    capacity = LLAMA_7B.capacity(pages=10, rows=5, depth=2)
    assert capacity.verify_seconds == LLAMA_7B.seconds(StepWork(1))
    each = LLAMA_7B.draft_step + LLAMA_7B.draft_row
    assert capacity.draft_token_seconds == pytest.approx(each)
    assert {rows for rows, _, _ in capacity.costs} == {1, 4, 5}
    assert (capacity.pages, capacity.depth, capacity.max_rows) == (10, 2, 5)


def test_costs_survive_their_file(tmp_path: Path) -> None:
    step_costs.save(tmp_path / "c.json", LLAMA_7B, {"model": "none"})
    assert step_costs.load(tmp_path / "c.json") == LLAMA_7B
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no costs"):
        step_costs.load(tmp_path / "c.json")


def test_the_recorded_costs_are_there() -> None:
    costs = step_costs.load()
    assert (
        0
        < costs.seconds(StepWork(1))
        < costs.seconds(StepWork(1, 5, 5))
        < costs.seconds(StepWork(8, 40, 5))
    )


def test_measured_costs_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("ROWS", (1, 2)),
        ("DRAFTS", (0, 2)),
        ("HELD", (16, 48)),
        ("CHUNKS", (16,)),
    ):
        monkeypatch.setattr(record_costs, name, value)
    path = tmp_path / "c.json"
    args = argparse.Namespace(json=path, passes=1, target=None, draft=None)
    assert record_costs.run(args) == 0
    assert step_costs.load(path).seconds(StepWork(1)) > 0
    assert len(json.loads(path.read_text())["about"]["steps"]) == 2 * 2 * 3 + 2


def test_a_trace_predicts_every_round_of_the_engine() -> None:
    """Drafted and accepted tokens of the engine, and its rounds, for three answers together."""
    asked = prompts(None, 3, seed=4, held_out=True)
    found = record_traces.record(asked, 40)
    tokenizer = Tokenizer.from_file(str(DEMO / "target" / "tokenizer.json"))
    ids = [tokenizer.encode(prompt.text).ids for prompt in asked]
    engine = start(str(DEMO / "target"), str(DEMO / "draft"), 3, 300, 3)
    for trace, known in zip(found, ids, strict=True):
        run = drive(engine, [known], 40, 3)
        assert len(run.tokens[0]) == trace.length
        # the first token comes with the prefill
        assert run.steps == 1 + traces.remaining_rounds(trace, 3)[1]


def test_prompts_of_a_file_are_recorded_with_any_pair(tmp_path: Path) -> None:
    rows = [
        {"prompt": "<|user|>What is os.path?<|assistant|>"},
        {"messages": [{"role": "user", "content": "<|user|>Explain json.dumps.<|assistant|>"}]},
    ]
    asked, path = tmp_path / "p.jsonl", tmp_path / "t.json"
    asked.write_text("\n".join(map(json.dumps, rows)))
    pair = {"target": str(DEMO / "target"), "draft": str(DEMO / "draft")}
    args = argparse.Namespace(json=path, count=5, max_new=12, dataset=str(asked), **pair)
    assert record_traces.run(args) == 0
    assert [trace.family for trace in traces.load(path)] == ["file", "file"]


def test_without_network_a_data_set_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    args = argparse.Namespace(
        json=tmp_path / "t.json", count=2, max_new=8, dataset="code", target="a/b", draft="c/d"
    )
    assert record_traces.run(args) == 1
    assert "google-research-datasets/mbpp needs network" in capsys.readouterr().err
    assert not args.json.exists()


def test_rows_without_a_prompt_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are answer, score"):
        datasets.prompt({"answer": "x", "score": 1})
    with pytest.raises(datasets.DatasetUnavailable, match="neither a file nor one of chat"):
        datasets.prompts(str(tmp_path / "none.jsonl"), 3)
