"""The benchmark of engines asks every contender the same and compares like with like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.engine import baselines, small_steps
from benchmark.engine import pairs as engine_pairs
from benchmark.engine.driver import drive, start
from benchmark.engine.speed import Timings
from tests.support import tiny

PROMPTS = ((5, 6, 7), (9,), tuple(range(20)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return tiny.save("llama", folder), tiny.save("llama", folder, 1)


def test_the_driver_gets_the_answers_of_transformers(models: tuple[str, str]) -> None:
    target, draft = models
    wanted = baselines.generate(baselines.load(target), PROMPTS, 12)
    engine = start(target, draft, 3, 48, len(PROMPTS))
    for drafts in (0, 3):
        driven = drive(engine, PROMPTS, 12, drafts)
        assert driven.tokens == wanted
        assert driven.steps >= 1


def test_small_steps_are_compared_with_a_step_of_one_token(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_steps, "REAL_MODEL", tmp_path / "none")
    monkeypatch.setattr(small_steps, "_save_random_model", lambda folder: models[0])
    threads = torch.get_num_threads()
    figures = small_steps.measure(tmp_path, 2)
    torch.set_num_threads(threads)
    assert figures.pop("engine.small_steps_model") == "random weights of its shape"
    assert sorted(figures) == [
        "engine.step1_seconds",
        "engine.step8_over_step1",
        "engine.verify5_over_step1",
    ]
    assert all(isinstance(figure, float) and figure > 0 for figure in figures.values())


def test_the_ways_of_transformers_agree_with_one_another(models: tuple[str, str]) -> None:
    target, draft = (baselines.load(path) for path in models)
    wanted = baselines.generate(target, PROMPTS, 12)
    assert baselines.assisted(target, draft, PROMPTS, 12, 3) == wanted


def test_the_draft_of_the_wide_pair_is_the_start_of_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pairs, "DEPTH", 3)
    pair = engine_pairs.wide_pair(tmp_path, 4)
    target, draft = baselines.load(pair.target), baselines.load(pair.draft)
    own = dict(target.named_parameters())
    assert all(value.equal(own[name]) for name, value in draft.named_parameters())
    assert len(draft.model.layers) == engine_pairs.DRAFT_DEPTH
    assert len(pair.prompts) == 4


def test_a_ratio_is_the_median_over_rounds_against_the_best_rival_of_each() -> None:
    timings = Timings({"ours": [10.0, 20.0, 30.0], "a": [5.0, 1.0, 30.0], "b": [1.0, 8.0, 2.0]})
    assert timings.ratio("ours", "a", "b") == 2.0
