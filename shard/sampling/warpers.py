"""Logits warpers: temperature, top-k, top-p, typical-p and min-p.

Every function changes `scores` [N, V] float32 in place, only in rows that sample and use it; a
greedy row has no warper. Ties with the last kept token are kept, so that the result does not depend
on the order of a sort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shard.sampling.position import Position
from shard.wire.protocol import Sampling

_CANDIDATES = 1024
"""A mass is searched among this many tokens first; if that is not enough, all are sorted."""
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 1e-5, 1e6
"""Beyond these a token is certain or all are alike, and quotients would leave float32."""


def bounded_temperature(value: float) -> float:
    """The temperature to divide by, so that every quotient of scores is finite in float32."""
    return min(max(value, _MIN_TEMPERATURE), _MAX_TEMPERATURE)


def temperature(scores: Tensor, positions: Sequence[Position]) -> None:
    """Divide the scores by the temperature."""
    rows, values = _rows_with(
        scores, positions, lambda sampling: bounded_temperature(sampling.temperature), 1.0
    )
    if len(rows):
        scores[rows] /= values


def top_k(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the k best tokens of a row, and ties with the k-th."""
    rows, values = _rows_with(scores, positions, lambda sampling: sampling.top_k, 0)
    if len(rows):
        ks = values.long().clamp(max=scores.shape[1])
        best = scores[rows].topk(int(ks.max())).values
        _mask_below(scores, rows, scores[rows], best.gather(1, ks - 1))


def top_p(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the smallest set of best tokens whose mass reaches p (Holtzman et al. 2020)."""
    rows, mass = _rows_with(scores, positions, lambda sampling: sampling.top_p, 1.0)
    if len(rows):
        logs = scores[rows].log_softmax(-1)
        _mask_below(scores, rows, logs, _exact_cutoff(logs, logs, mass))


def typical_p(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the tokens whose surprisal is closest to the entropy, up to mass p.

    (Meister et al. 2023.)
    """
    rows, mass = _rows_with(scores, positions, lambda sampling: sampling.typical_p, 1.0)
    if len(rows):
        logs = scores[rows].log_softmax(-1)
        near = typicality(logs)
        _mask_below(scores, rows, near, _exact_cutoff(near, logs, mass))


def min_p(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the tokens that are at least p times as likely as the best (Nguyen et al. 2024)."""
    rows, ratio = _rows_with(scores, positions, lambda sampling: sampling.min_p, 0.0)
    if len(rows):
        kept = scores[rows]
        _mask_below(scores, rows, kept, kept.amax(-1, keepdim=True) + ratio.log())


def _rows_with(
    scores: Tensor,
    positions: Sequence[Position],
    value: Callable[[Sampling], float],
    neutral: float,
) -> tuple[Tensor, Tensor]:
    """The rows that sample with a value other than `neutral`, [n], and their values, [n, 1]."""
    by_row = {
        row: value(position.sampling)
        for row, position in enumerate(positions)
        if position.sampling.temperature and value(position.sampling) != neutral
    }
    rows = torch.tensor(list(by_row), dtype=torch.int64, device=scores.device)
    values = torch.tensor(list(by_row.values()), dtype=torch.float32, device=scores.device)
    return rows, values[:, None]


def _exact_cutoff(key: Tensor, logs: Tensor, mass: Tensor) -> Tensor:
    """`mass_cutoff` among as many candidates as are needed."""
    for width in (_CANDIDATES, logs.shape[1]):
        cutoff, reached = mass_cutoff(key, logs, mass, width)
        if bool((reached >= mass).all()):
            break
    return cutoff


def mass_cutoff(key: Tensor, logs: Tensor, mass: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The lowest key [n, 1] of the smallest set of tokens, by `key`, that holds `mass` [n, 1].

    `key` and `logs` are [n, V]; `logs` are log-probabilities. Only the best `width` tokens are
    considered; their total mass, [n, 1], is the second value.
    """
    best = key.topk(min(width, logs.shape[1]))
    probabilities = logs.gather(1, best.indices).exp()
    reached = probabilities.cumsum(-1)
    last = (reached - probabilities < mass).sum(-1, keepdim=True) - 1
    return best.values.gather(1, last.clamp(min=0)), reached[:, -1:]


def typicality(logs: Tensor) -> Tensor:
    """Negative distance of each token's surprisal to the entropy, from log-probabilities [n, V]."""
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)  # masked tokens add nothing
    return -(logs + entropy).abs()


def _mask_below(scores: Tensor, rows: Tensor, key: Tensor, cutoff: Tensor) -> None:
    """Mask the tokens of `rows` whose `key` [n, V] is below `cutoff` [n, 1]."""
    scores[rows] = scores[rows].masked_fill(key < cutoff, -math.inf)
