"""The draw: its noise, its distribution with and without a draft, and what is told about it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shard.sampling.sampler import (
    Position,
    gumbel_noise,
    logprobs,
    process,
    sample,
    stream_key,
    top_tokens,
)
from shard.wire.protocol import ReportOptions, Sampling
from tests.support.statistics import chi_square

CPU = torch.device("cpu")
DRAWS = 200_000
BATCH = 20_000


def hashed(seed: int, position: int, token: int) -> int:
    """The noise's 32 bits by arithmetic on plain integers."""

    def finalise(value: int) -> int:
        value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        return value ^ value >> 16

    key = stream_key(seed, position)
    return finalise(finalise(token + key & 0xFFFFFFFF) ^ key >> 32)


def splitmix(value: int) -> int:
    """The next output of SplitMix64 in state `value`, as its paper has it."""
    value = value + 0x9E3779B97F4A7C15 & 2**64 - 1
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 2**64 - 1
    return value ^ value >> 31


def noise(seeds: range, positions: range, vocabulary: int) -> Tensor:
    """[seeds x positions, vocabulary]."""
    spots = [
        Position(Sampling(seed=seed), range(position)) for seed in seeds for position in positions
    ]
    return gumbel_noise(spots, vocabulary, CPU)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**20), st.integers(0, 200))
def test_the_noise_is_the_hash_on_plain_integers(seed: int, position: int, token: int) -> None:
    assert stream_key(seed, position) == splitmix(splitmix(seed) + position & 2**64 - 1)
    uniform = ((hashed(seed, position, token) & 0x7FFFFFFF) + 0.5) * 2.0**-31
    expected = -math.log(-math.log1p(-min(uniform, 1 - 2.0**-24)))
    found = gumbel_noise([Position(Sampling(seed=seed), range(position))], token + 1, CPU)[
        0, token
    ].item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_noise_is_gumbel_distributed() -> None:
    uniform = (-(-noise(range(500), range(4), 512)).exp()).exp().flatten()
    counts = torch.histc(uniform, bins=256, min=0, max=1)
    assert chi_square(counts[None], torch.full((1, 256), len(uniform) / 256)) > 0.001
    assert uniform.isfinite().all()


@pytest.mark.parametrize("lag", [1, 2, 3, 64])
def test_the_noise_of_neighbours_is_independent(lag: int) -> None:
    """Of tokens, of positions and of seeds: correlations within 4.5 standard errors of zero."""
    size = 72
    values = noise(range(size), range(size), size).view(size, size, size).double()
    values = (values - values.mean()) / values.std()
    for dimension in range(3):
        count = size - lag
        here, there = values.narrow(dimension, 0, count), values.narrow(dimension, lag, count)
        assert abs((here * there).mean()) * math.sqrt(here.numel()) < 4.5


def draw(scores: Tensor, sampling: Sampling, position: int, draws: int) -> Tensor:
    """One token for each of `draws` seeds."""
    parts = []
    for first in range(0, draws, BATCH):
        spots = [
            Position(Sampling(seed, sampling.temperature), range(position))
            for seed in range(first, first + BATCH)
        ]
        parts.append(sample(scores.expand(BATCH, -1), spots))
    return torch.cat(parts)


@pytest.mark.parametrize("sampling", [Sampling(0, 1.0), Sampling(0, 0.7, top_k=9, top_p=0.9)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    raw = torch.randn(1, 16, generator=torch.Generator().manual_seed(5))
    scores = process(raw, [Position(sampling, [1])])
    drawn = torch.bincount(draw(scores, sampling, 3, DRAWS), minlength=16).float()
    assert chi_square(drawn[None], scores.softmax(-1) * DRAWS) > 0.01


def test_coupled_drafts_are_accepted_more_often_than_independent_ones() -> None:
    rng = torch.Generator().manual_seed(6)
    target = torch.randn(1, 16, generator=rng)
    near = target + torch.randn(1, 16, generator=rng) * 0.3
    chosen = draw(target, Sampling(0, 1.0), 1, BATCH)
    agreed = (chosen == draw(near, Sampling(0, 1.0), 1, BATCH)).float().mean()
    independent = (chosen == draw(near, Sampling(0, 1.0), 2, BATCH)).float().mean()
    assert agreed > 0.7 > 0.3 > independent


def test_greedy_rows_take_the_lowest_of_the_best() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert sample(scores, [Position(Sampling(seed=3), [1])]).tolist() == [1]


def test_the_likeliest_tokens_come_in_order_with_ties_and_without_barred_ones() -> None:
    logs = logprobs(torch.tensor([[0.0, 3.0, 1.0, 3.0], [1.0, -math.inf, -math.inf, 0.0]]))
    tied, few = top_tokens(logs, [1, 4])
    assert tied.ids == (1, 3)
    assert few.ids == (0, 3)
    assert list(tied.logprobs) == logs[0, [1, 3]].tolist()
    assert top_tokens(logs, [0, 2])[0].ids == ()
    assert [top.ids for top in top_tokens(logs, [3, 1])] == [(1, 3, 2), (0,)]


def test_a_report_changes_no_choice() -> None:
    raw = torch.randn(1, 50)
    sampling = Sampling(4, 1.0, top_k=5)
    plain, told = (
        Position(sampling, [1]),
        Position(sampling, [1], report=ReportOptions(5, True, True)),
    )
    chosen = Counter(sample(process(raw, [spot]), [spot]).item() for spot in (plain, told))
    assert len(chosen) == 1
