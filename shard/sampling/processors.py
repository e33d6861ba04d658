"""What bends a row's scores before anything is cut: watermark, penalties, bias, and what is barred.

Every function changes `scores` [N, V] float32 in place, and only in rows whose request asks for
it. They see the row's tokens and the drafts before each position, so that the scores are those
of a row that never drafted. Greedy rows take part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from shard.sampling.position import Position

HASH_KEY = 15485863
"""Times the previous token: the seed of the green list."""


def watermark(scores: Tensor, positions: Sequence[Position]) -> None:
    """Favour the green list (Kirchenbauer et al. 2023), which the previous token alone fixes."""
    for row, spot in enumerate(positions):
        if spot.sampling.watermark:
            green = green_list(spot.previous_token, scores.shape[1], spot.sampling.watermark_gamma)
            scores[row, green.to(scores.device)] += spot.sampling.watermark_delta


@lru_cache(maxsize=64)
def green_list(previous: int, vocabulary: int, gamma: float) -> Tensor:
    """Ids [vocabulary * gamma] favoured after `previous`; drawn on the CPU whatever the device."""
    generator = torch.Generator().manual_seed(HASH_KEY * previous)
    return torch.randperm(vocabulary, generator=generator)[: int(vocabulary * gamma)]


def repetition(scores: Tensor, positions: Sequence[Position]) -> None:
    """Divide positive and multiply negative scores of every token seen, once per token."""
    seen = {
        row: dict.fromkeys((*spot.tokens, *spot.drafts), spot.sampling.repetition_penalty)
        for row, spot in enumerate(positions)
        if spot.sampling.repetition_penalty != 1.0
    }
    if seen:
        cells, penalty = _cells(seen, scores.device)
        old = scores[cells]
        scores[cells] = torch.where(old < 0, old * penalty, old / penalty)


def frequency_and_presence(scores: Tensor, positions: Sequence[Position]) -> None:
    """Subtract, for every token of the output, count x frequency penalty + presence penalty."""
    amounts = {}
    for row, spot in enumerate(positions):
        each, once = spot.sampling.frequency_penalty, spot.sampling.presence_penalty
        if each or once:
            counts = Counter(spot.output)
            amounts[row] = {token: -(each * count + once) for token, count in counts.items()}
    _add(scores, amounts)


def bias(scores: Tensor, positions: Sequence[Position]) -> None:
    """Add the request's bias to the tokens that it names."""
    amounts = {
        row: {entry.token: entry.value for entry in spot.sampling.bias}
        for row, spot in enumerate(positions)
        if spot.sampling.bias
    }
    _add(scores, amounts)


def mask_forbidden(scores: Tensor, positions: Sequence[Position], eos: Collection[int]) -> None:
    """Bar the end before `min_new_tokens`, then what the grammar does not admit.

    A grammar that admits nothing but the end gets it: one token must remain.
    """
    ends = [id for id in eos if id < scores.shape[1]]
    for row, spot in enumerate(positions):
        early = output_length(spot) < spot.sampling.min_new_tokens
        barred = ends if early else []
        if spot.matcher is not None:
            admitted = spot.matcher.mask(spot.output, scores.shape[1])
            scores[row].masked_fill_(~_excluding(admitted, barred).to(scores.device), -math.inf)
        elif barred:
            scores[row, barred] = -math.inf


def output_length(position: Position) -> int:
    """How many tokens were emitted or drafted before `spot`."""
    return position.index - position.prompt_length


def _excluding(allowed: Tensor, forbidden: Sequence[int]) -> Tensor:
    """`admitted` [V] less `barred`, or itself if nothing else is left."""
    rest = allowed.clone()
    rest[forbidden] = False
    return rest if rest.any() else allowed


def _add(scores: Tensor, amounts: Mapping[int, Mapping[int, float]]) -> None:
    if amounts:
        cells, values = _cells(amounts, scores.device)
        scores[cells] += values


def _cells(
    values: Mapping[int, Mapping[int, float]], device: torch.device
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Rows and tokens of all `values`, no cell twice, and the values; one copy each."""
    rows = [row for row, tokens in values.items() for _ in tokens]
    ids = [token for tokens in values.values() for token in tokens]
    flat = [value for tokens in values.values() for value in tokens.values()]
    places = torch.tensor([rows, ids], dtype=torch.int64, device=device)
    return (places[0], places[1]), torch.tensor(flat, dtype=torch.float32, device=device)
