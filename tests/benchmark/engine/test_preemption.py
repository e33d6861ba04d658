"""The two benchmarks of the cache, on models that are too small to say anything of speed."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM
from transformers.models.llama import LlamaConfig

from benchmark.demo import engine as demo_engine
from benchmark.engine import preemption, prefix
from shard.engine import Engine
from tests.support.tiny import SHAPE


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("models") / "llama"
    config = LlamaConfig(**{**SHAPE, "max_position_embeddings": 1024})
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return demo_engine.load(str(path), str(path), max_swap_tokens=2000)


def test_every_rung_gets_a_figure_at_every_length(engine: Engine) -> None:
    engine.reset()
    figures = preemption.measure(engine, 1)
    lengths = (100, 200, 300, 400, 500)
    rungs = ("keep", "swap", "recompute")
    assert set(figures) == {f"preemption.{r}.{held}" for r in rungs for held in lengths}
    assert all(figures[f"preemption.recompute.{held}"] > 0 for held in lengths)


def test_requests_after_the_first_compute_at_most_a_page_of_their_prefix(engine: Engine) -> None:
    first, *later = prefix.serve(engine, True, 1)
    assert first.prefilled == len(first.prompt)
    assert all(call.prefilled <= len(call.prompt) - prefix.PREFIX + 16 for call in later)
    assert all(call.prefilled == len(call.prompt) for call in prefix.serve(engine, False, 1))


def test_the_prefix_figures_are_flat(engine: Engine) -> None:
    figures = prefix.measure(engine, 1)
    assert figures["prefix.ttft_ratio"] > 0
    assert figures["prefix.tokens_computed_again"] <= 16
