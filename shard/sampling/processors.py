"""Logits processors: watermark, penalties, bias, and the mask of forbidden tokens.

Every function changes `scores` [N, V] float32 in place, only in rows whose request uses it. It sees
the row's tokens and the drafts before each position, so that the scores equal those of a row
without drafts. Greedy rows are processed too. Which token is chosen is decided in `sampler`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from shard import progress
from shard.bounded_cache import BoundedCache
from shard.sampling.position import Position

_MAX_PENALTY = 1e4
"""A larger repetition penalty, or a smaller inverse, changes no order of tokens in practice."""
HASH_KEY = 15485863
"""Multiplied by the previous token it is the seed of the green list."""
_MAX_GREEN_LIST_BYTES = 32 << 20
"""Maximum size of the green lists that are cached."""
_green_lists = BoundedCache[tuple[int, int, float], Tensor](
    _MAX_GREEN_LIST_BYTES, lambda _, ids: ids.nbytes
)


def watermark(scores: Tensor, positions: Sequence[Position]) -> None:
    """Add `watermark_delta` to the green list, a function of the previous token.

    (Kirchenbauer et al. 2023.)
    """
    for row, position in enumerate(positions):
        if position.sampling.watermark:
            green = green_list(
                position.previous_token, scores.shape[1], position.sampling.watermark_gamma
            )
            scores[row, green.to(scores.device)] += position.sampling.watermark_delta


def green_list(previous: int, vocabulary: int, gamma: float) -> Tensor:
    """Ids [vocabulary * gamma] favoured after `previous`; always drawn on the CPU."""
    key = (previous, vocabulary, gamma)
    return _green_lists.get_or_build(key, lambda: _draw_green_list(*key))


def _draw_green_list(previous: int, vocabulary: int, gamma: float) -> Tensor:
    generator = torch.Generator().manual_seed(HASH_KEY * previous)
    ids = torch.randperm(vocabulary, generator=generator)
    return ids[: int(vocabulary * gamma)].clone()


def bounded_penalty(value: float) -> float:
    """The repetition penalty to apply, so that no product or quotient of scores overflows."""
    return min(max(value, 1 / _MAX_PENALTY), _MAX_PENALTY)


def repetition(scores: Tensor, positions: Sequence[Position]) -> None:
    """Divide positive and multiply negative scores of every token seen, once per token (CTRL)."""
    seen = {
        row: dict.fromkeys(
            (*position.tokens, *position.drafts),
            bounded_penalty(position.sampling.repetition_penalty),
        )
        for row, position in enumerate(positions)
        if position.sampling.repetition_penalty != 1.0
    }
    if seen:
        cells, penalty = _cells(seen, scores.device)
        old = scores[cells]
        scores[cells] = torch.where(old < 0, old * penalty, old / penalty)


def frequency_and_presence(scores: Tensor, positions: Sequence[Position]) -> None:
    """Subtract, for every token of the output, count x frequency penalty + presence penalty."""
    amounts = {}
    for row, position in enumerate(positions):
        each, once = position.sampling.frequency_penalty, position.sampling.presence_penalty
        if each or once:
            counts = Counter(position.output)
            amounts[row] = {token: -(each * count + once) for token, count in counts.items()}
    _add(scores, amounts)


def bias(scores: Tensor, positions: Sequence[Position]) -> None:
    """Add the request's logit bias to the tokens that it lists."""
    amounts = {
        row: {entry.token: entry.value for entry in position.sampling.bias}
        for row, position in enumerate(positions)
        if position.sampling.bias
    }
    _add(scores, amounts)


def mask_forbidden(scores: Tensor, positions: Sequence[Position], eos: Collection[int]) -> None:
    """Mask end-of-sequence before `min_new_tokens`, then what the grammar does not allow.

    Where the grammar allows only end-of-sequence, that stays allowed: one token must remain.
    """
    ends = [id for id in eos if id < scores.shape[1]]
    for row, position in enumerate(positions):
        early = output_length(position) < position.sampling.min_new_tokens
        forbidden = ends if early else []
        if position.matcher is not None:
            allowed = position.matcher.mask(position.output, scores.shape[1])
            progress.advance()
            scores[row].masked_fill_(~_excluding(allowed, forbidden).to(scores.device), -math.inf)
        elif forbidden:
            scores[row, forbidden] = -math.inf


def output_length(position: Position) -> int:
    """Number of tokens that were emitted or drafted before `position`."""
    return position.index - position.prompt_length


def _excluding(allowed: Tensor, forbidden: Sequence[int]) -> Tensor:
    """`allowed` [V] without `forbidden`, or unchanged if nothing else is left."""
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
    """Indices (rows, tokens) of all `values` and the values themselves; one upload each."""
    rows = [row for row, tokens in values.items() for _ in tokens]
    ids = [token for tokens in values.values() for token in tokens]
    flat = [value for tokens in values.values() for value in tokens.values()]
    cells = torch.tensor([rows, ids], dtype=torch.int64, device=device)
    return (cells[0], cells[1]), torch.tensor(flat, dtype=torch.float32, device=device)
