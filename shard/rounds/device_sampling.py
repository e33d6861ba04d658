"""Which token comes next, decided where the models run: `sampling` with parameters as tensors.

The same rules in the same order with the same noise, for what can be said without the host: no
grammar, no watermark, no list of tokens. Every row gets every rule that the round's kind has, at
neutral values where it did not ask, so nothing depends on values that the host would have to read.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from shard.rounds.device_rows import Kind, Law
from shard.sampling.sampler import argmax, mixed, noise
from shard.sampling.warpers import cutoff, nearness


class DeviceSampler:
    """Scores and chooses for a vocabulary of `size` tokens, of which `eos` end a text."""

    def __init__(self, size: int, eos: Collection[int], device: torch.device) -> None:
        self.ends = torch.zeros(size, dtype=torch.bool, device=device)
        """Which tokens end a text."""
        self.ends[[id for id in eos if id < size]] = True

    def process(self, logits: Tensor, law: Law, positions: Tensor, kind: Kind) -> Tensor:
        """Scores [N, V] float32 of `logits` [N, V] for tokens at `positions` [N]."""
        scores = logits.float()
        if kind is Kind.BENT:
            early = positions < law.open
            scores = scores.masked_fill(early[:, None] & self.ends, -math.inf)
        if kind is not Kind.GREEDY:
            scores = scores / law.temperature[:, None]
        return _cut(scores, law) if kind is Kind.BENT else scores

    def pick(self, scores: Tensor, law: Law, positions: Tensor, kind: Kind) -> Tensor:
        """The chosen tokens, int64 [N]."""
        if kind is Kind.GREEDY:
            return argmax(scores)
        noisy = scores + noise(mixed(law.key + positions), scores.shape[1])
        return argmax(torch.where(law.sampled[:, None] > 0, noisy, scores))


def _cut(scores: Tensor, law: Law) -> Tensor:
    """Top-k, top-p, typical-p, min-p. All tokens are sorted: a second look would need the host."""
    size = scores.shape[1]
    best = scores.sort(-1, descending=True).values
    scores = _from(scores, scores, best.gather(1, law.top_k[:, None] - 1))
    logs = scores.log_softmax(-1)
    scores = _from(scores, logs, _mass(logs, logs, law.top_p, size))
    logs = scores.log_softmax(-1)
    near = nearness(logs)
    scores = _from(scores, near, _mass(near, logs, law.typical_p, size))
    return _from(scores, scores, scores.amax(-1, keepdim=True) + law.min_p[:, None].log())


def _mass(key: Tensor, logs: Tensor, mass: Tensor, size: int) -> Tensor:
    """Where to cut [N, 1] so that `mass` [N] is left; nowhere for a whole mass."""
    found, _ = cutoff(key, logs, mass[:, None], size)
    return found.masked_fill(mass[:, None] >= 1.0, -math.inf)


def _from(scores: Tensor, key: Tensor, least: Tensor) -> Tensor:
    return scores.masked_fill(key < least, -math.inf)
