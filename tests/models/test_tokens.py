"""Real models in float32 emit the tokens of transformers' `generate`, with drafts and without.

The engine runs in this process, so that a model is loaded once for each kind of draft.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from router.text.tokenizer import Tokenizer
from shard.wire.protocol import Sampling
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.public_models import first_layers, public_model
from tests.support.tiny import engine

pytestmark = pytest.mark.models
MODELS = ("smollm2", "gemma3")
TOKENS = 24
DRAFT_LAYERS = 3
KINDS = {
    "greedy": Sampling(repetition_penalty=1.2),  # else the answers to plain text are repetitions
    "sampled": Sampling(temperature=0.9, top_k=50, top_p=0.95, repetition_penalty=1.1),
}
TEXTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "1, 1, 2, 3, 5, 8, 13, 21, 1, 1, 2, 3, 5, 8, 13, 21, 1, 1, 2,",
    "Write a short poem about the sea and the mountains.",
    "Seven animals of the forest, each with its color and its favorite food:",
    "Die Hauptstadt Österreichs heißt 😀",
)
LONG_TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps. " * 40
"""More tokens than Gemma's window of 512."""


@pytest.fixture(params=MODELS, scope="module")
def model(request: pytest.FixtureRequest) -> Path:
    return public_model(request.param)


@cache
def specs(model: Path, kind: str) -> list[RowSpec]:
    tokenizer = Tokenizer.load(str(model))
    return [
        RowSpec(tuple(tokenizer.encode(text)), TOKENS, replace(KINDS[kind], seed=seed))
        for seed, text in enumerate((*TEXTS, LONG_TEXT))
    ]


@cache
def reference(model: Path, kind: str) -> list[list[int]]:
    """The target without drafts, one request at a time."""
    return drive(engine(str(model)), specs(model, kind), DrivePlan(batch=1))


def test_texts_have_the_tokens_of_transformers_tokenizer(model: Path) -> None:
    tokenizer, served = AutoTokenizer.from_pretrained(model), Tokenizer.load(str(model))
    for text in (*TEXTS, LONG_TEXT, "2 + 1234 = 1236", "a  b\n\n\tc", "世界 naïve", ""):
        assert list(served.encode(text)) == tokenizer(text).input_ids


def test_greedy_tokens_are_those_of_generate(model: Path) -> None:
    module: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def generate(spec: RowSpec) -> list[int]:
        ids = torch.tensor([spec.prompt])
        mask = torch.ones_like(ids)
        out = module.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=False,
            repetition_penalty=KINDS["greedy"].repetition_penalty,
        )
        tokens: list[int] = out[0, len(spec.prompt) :].tolist()
        return tokens

    emitted = reference(model, "greedy")
    assert emitted == [generate(spec) for spec in specs(model, "greedy")]
    assert len({token for tokens in emitted for token in tokens}) >= 64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", [DrivePlan(), DrivePlan(draft=5, chunk=100)])
def test_batch_prompt_lookup_and_chunks_change_no_token(
    model: Path, kind: str, plan: DrivePlan
) -> None:
    assert drive(engine(str(model)), specs(model, kind), plan) == reference(model, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_model_changes_no_token(
    model: Path, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"{model.name}-draft"
    draft = first_layers(model, DRAFT_LAYERS, folder)
    drafted = drive(engine(str(model), str(draft)), specs(model, kind), DrivePlan(draft=5))
    assert drafted == reference(model, kind)
