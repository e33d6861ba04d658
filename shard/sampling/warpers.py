"""What cuts a row's distribution down before the draw: temperature, top-k, top-p, typical-p, min-p.

Every function changes `scores` [N, V] float32 in place, and only in rows that sample and ask for
it; a greedy row has no warper. Ties with the last token kept are kept, so that the outcome does
not depend on a sort's order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shard.sampling.position import Position
from shard.wire.protocol import Sampling

_CANDIDATES = 1024
"""A mass is sought among this many tokens first; where it lies deeper, all are sorted."""


def temperature(scores: Tensor, positions: Sequence[Position]) -> None:
    """Divide by the temperature."""
    rows, values = _rows_with(scores, positions, lambda given: given.temperature, 1.0)
    if len(rows):
        scores[rows] /= values


def top_k(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the k best tokens of a row, and what ties with the k-th."""
    rows, values = _rows_with(scores, positions, lambda given: given.top_k, 0)
    if len(rows):
        ks = values.long().clamp(max=scores.shape[1])
        best = scores[rows].topk(int(ks.max())).values
        _mask_below(scores, rows, scores[rows], best.gather(1, ks - 1))


def top_p(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the fewest best tokens whose mass reaches p (Holtzman et al. 2020)."""
    rows, mass = _rows_with(scores, positions, lambda given: given.top_p, 1.0)
    if len(rows):
        logs = scores[rows].log_softmax(-1)
        _mask_below(scores, rows, logs, _exact_cutoff(logs, logs, mass))


def typical_p(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the tokens whose surprise is nearest the entropy, up to mass p (Meister et al. 2023)."""
    rows, mass = _rows_with(scores, positions, lambda given: given.typical_p, 1.0)
    if len(rows):
        logs = scores[rows].log_softmax(-1)
        near = typicality(logs)
        _mask_below(scores, rows, near, _exact_cutoff(near, logs, mass))


def min_p(scores: Tensor, positions: Sequence[Position]) -> None:
    """Keep the tokens that are at least p times as likely as the best (Nguyen et al. 2024)."""
    rows, least = _rows_with(scores, positions, lambda given: given.min_p, 0.0)
    if len(rows):
        kept = scores[rows]
        _mask_below(scores, rows, kept, kept.amax(-1, keepdim=True) + least.log())


def _rows_with(
    scores: Tensor,
    positions: Sequence[Position],
    value: Callable[[Sampling], float],
    neutral: float,
) -> tuple[Tensor, Tensor]:
    """The rows that sample with another value than `neutral`, [n], and their values, [n, 1]."""
    asked = {
        row: value(spot.sampling)
        for row, spot in enumerate(positions)
        if spot.sampling.temperature and value(spot.sampling) != neutral
    }
    rows = torch.tensor(list(asked), dtype=torch.int64, device=scores.device)
    values = torch.tensor(list(asked.values()), dtype=torch.float32, device=scores.device)
    return rows, values[:, None]


def _exact_cutoff(key: Tensor, logs: Tensor, mass: Tensor) -> Tensor:
    """`cutoff` among as many candidates as are needed."""
    for width in (_CANDIDATES, logs.shape[1]):
        found, reached = mass_cutoff(key, logs, mass, width)
        if bool((reached >= mass).all()):
            break
    return found


def mass_cutoff(key: Tensor, logs: Tensor, mass: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The lowest key [n, 1] among the fewest tokens, best `key` first, that hold `mass` [n, 1].

    `key` and `logs` are [n, V]; `logs` are log-probabilities. Only the best `width` tokens are
    looked at; what they hold together, [n, 1], is the second value.
    """
    best = key.topk(min(width, logs.shape[1]))
    probabilities = logs.gather(1, best.indices).exp()
    reached = probabilities.cumsum(-1)
    last = (reached - probabilities < mass).sum(-1, keepdim=True) - 1
    return best.values.gather(1, last.clamp(min=0)), reached[:, -1:]


def typicality(logs: Tensor) -> Tensor:
    """How near the surprise of each token is to the entropy, [n, V]; `logs` as in `cutoff`."""
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)  # a barred token adds nothing
    return -(logs + entropy).abs()


def _mask_below(scores: Tensor, rows: Tensor, key: Tensor, cutoff: Tensor) -> None:
    """Bar the tokens of `rows` whose `key` [n, V] lies below `cutoff` [n, 1]."""
    scores[rows] = scores[rows].masked_fill(key < cutoff, -math.inf)
