"""Processed scores are those of transformers' own processors, for every row of a mixed batch."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from shard.sampling.processors import green_list
from shard.sampling.sampler import Position, logprobs, process, sample
from shard.wire.protocol import LogitBias, Sampling
from tests.support.reference import reference

VOCABULARY = 503
EOS = [7, 400]
BIASES = (LogitBias(3, 4.0), LogitBias(7, -2.5), LogitBias(502, 1.0))
WARM = Sampling(temperature=1.0)
SINGLE: dict[str, dict[str, Any]] = {
    "neutral": {},
    "repetition": {"repetition_penalty": 1.3},
    "reward of repetition": {"repetition_penalty": 0.7},
    "frequency": {"frequency_penalty": 0.6},
    "reward of frequency": {"frequency_penalty": -1.5},
    "presence": {"presence_penalty": 0.9},
    "frequency and presence": {"frequency_penalty": 0.3, "presence_penalty": -0.4},
    "bias": {"bias": BIASES},
    "watermark": {"watermark": True},
    "minimum not reached": {"min_new_tokens": 50},
    "minimum reached": {"min_new_tokens": 2},
    "temperature": {"temperature": 0.6},
    "high temperature": {"temperature": 1.9},
    "top-k": {"top_k": 12},
    "top-k of 1": {"top_k": 1},
    "top-k beyond the vocabulary": {"top_k": 100_000},
    "top-p": {"top_p": 0.8},
    "small top-p": {"top_p": 0.01},
    "typical-p": {"typical_p": 0.7},
    "small typical-p": {"typical_p": 0.05},
    "large typical-p": {"typical_p": 0.99},
    "min-p": {"min_p": 0.1},
    "min-p of 1": {"min_p": 1.0},
}


def spots(samplings: list[Sampling], seed: int = 0) -> list[Position]:
    """A position for each, with repeated tokens in prompt, output and drafts."""
    rng = random.Random(seed)
    made = []
    for sampling in samplings:
        prompt, output, drafts = rng.randint(1, 9), rng.randint(0, 12), rng.randint(0, 4)
        tokens = [rng.choice([*range(12), *EOS, 500]) for _ in range(prompt + output)]
        guess = [rng.choice([*range(12), 501]) for _ in range(drafts)]
        made.append(Position(sampling, tokens, guess, prompt))
    return made


def logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def assert_equal_to_transformers(given: list[Position], raw: Tensor) -> None:
    kept = raw.clone()
    scores = process(raw, given, EOS)
    for row, spot in enumerate(given):
        expected = reference(raw[row], spot, EOS)
        assert torch.equal(scores[row].isinf(), expected.isinf()), spot.sampling
        torch.testing.assert_close(scores[row], expected)
    assert torch.equal(raw, kept)


@pytest.mark.parametrize("given", SINGLE.values(), ids=SINGLE)
def test_every_parameter_alone(given: dict[str, Any]) -> None:
    sampling = replace(WARM, **given)
    assert_equal_to_transformers(spots([sampling] * 4), logits(4))


def test_rows_of_a_mixed_batch_do_not_touch_each_other() -> None:
    samplings = [replace(WARM, **given) for given in SINGLE.values()]
    assert_equal_to_transformers(spots(samplings, 1), logits(len(samplings), 1))


def test_any_combination_in_one_batch() -> None:
    rng = random.Random(2)
    samplings = []
    for _ in range(150):
        parts = rng.sample(list(SINGLE.values()), rng.randint(2, 8))
        samplings.append(WARM)
        for part in parts:
            samplings[-1] = replace(samplings[-1], **part)
    assert_equal_to_transformers(spots(samplings, 3), logits(150, 3))


def test_a_greedy_row_has_processors_and_no_warper() -> None:
    everything = {name: value for part in SINGLE.values() for name, value in part.items()}
    greedy = Sampling(**{**everything, "temperature": 0.0})
    assert_equal_to_transformers(spots([greedy] * 8), logits(8))


EXTREME: tuple[dict[str, Any], ...] = (
    *({"temperature": value} for value in (1e-45, 1e-40, 1e-20, 1e-6, 1e20, 3.4e38)),
    *({"repetition_penalty": value} for value in (1e-45, 1e-40, 1e-10, 1e10, 3.4e38)),
    *({name: 1e-45} for name in ("top_p", "typical_p", "min_p")),
    {"temperature": 1e-40, "repetition_penalty": 1e-40, "top_p": 1e-40, "typical_p": 1e-40},
    {"temperature": 1e-40, "repetition_penalty": 3.4e38, "frequency_penalty": 2.0, "top_k": 1},
    {"temperature": 3.4e38, "repetition_penalty": 1e-40, "min_p": 1e-40, "typical_p": 0.5},
)


@pytest.mark.parametrize("given", EXTREME, ids=str)
def test_tiny_and_huge_values_leave_a_distribution(given: dict[str, Any]) -> None:
    for scale in (1.0, 300.0):
        positions = spots([replace(WARM, **given)] * 4)
        logs = logprobs(process(logits(4) * scale, positions, EOS))
        assert not logs.isnan().any()
        torch.testing.assert_close(logs.exp().sum(-1), torch.ones(4))


def test_a_tiny_temperature_takes_the_best_token_and_a_huge_one_any() -> None:
    raw = logits(4)
    cold = spots([Sampling(seed=seed, temperature=1e-40) for seed in range(4)])
    assert sample(process(raw, cold), cold).tolist() == raw.argmax(-1).tolist()
    hot = process(raw, spots([Sampling(temperature=3e38)] * 4))
    torch.testing.assert_close(logprobs(hot).exp(), torch.full_like(raw, 1 / VOCABULARY))


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
def test_a_mass_that_lies_deep_in_a_wide_vocabulary_is_found(name: str) -> None:
    raw = torch.randn(3, 5000, generator=torch.Generator().manual_seed(4)) * 0.1
    masses: list[dict[str, Any]] = [{name: mass} for mass in (0.1, 0.5, 0.9)]
    given = [Position(replace(WARM, **each), [1], (), 1) for each in masses]
    scores = process(raw, given)
    for row, spot in enumerate(given):
        assert torch.equal(scores[row], reference(raw[row], spot, []))


def test_neutral_rows_keep_their_bits() -> None:
    raw = logits(4).to(torch.bfloat16)
    given = spots([Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.5), Sampling()])
    scores = process(raw, given, EOS)
    for row in (0, 1, 3):
        assert torch.equal(scores[row], raw[row].float())


def test_the_green_list_is_half_of_the_vocabulary_and_fixed_by_the_previous_token() -> None:
    lists = [frozenset(green_list(previous, 1000, 0.5).tolist()) for previous in (0, 1, 151_000, 1)]
    assert all(len(ids) == 500 and max(ids) < 1000 for ids in lists)
    assert len(set(lists)) == 3
    assert lists[1] == lists[3]


def test_share_and_gain_of_the_green_list_are_the_requests() -> None:
    sampling = Sampling(watermark=True, watermark_gamma=0.25, watermark_delta=3.0)
    scores = process(torch.zeros(1, 100), [Position(sampling, [1, 2], (5,), 1)])[0]
    assert scores.tolist().count(3.0) == 25
    assert scores.tolist().count(0.0) == 75


def test_the_draft_before_a_position_decides_its_green_list() -> None:
    spot = Position(Sampling(watermark=True), [1, 2], (5,), 1)
    raised = process(torch.zeros(1, 100), [spot])[0].nonzero()[:, 0]
    assert set(raised.tolist()) == set(green_list(5, 100, 0.5).tolist())
