"""Sampling on the device: the rules of `shard.sampling` with the parameters as tensors.

The same rules in the same order with the same noise, for the fields in `device_rows.ON_DEVICE`.
Every rule of the round's kind is applied to every row, at neutral values where the row does not use
it, so nothing depends on values that the host would have to read back.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from shard.rounds.device_rows import DeviceRowParams, SamplingKind
from shard.sampling.sampler import argmax, gumbel_from_keys, mix64_tensor
from shard.sampling.warpers import mass_cutoff, typicality


class DeviceSampler:
    """Scores and picks tokens of a vocabulary of `size` tokens, of which `eos` end a text."""

    def __init__(self, size: int, eos: Collection[int], device: torch.device) -> None:
        self.is_eos = torch.zeros(size, dtype=torch.bool, device=device)
        """Which tokens end a text."""
        self.is_eos[[id for id in eos if id < size]] = True

    def process(
        self, logits: Tensor, params: DeviceRowParams, positions: Tensor, kind: SamplingKind
    ) -> Tensor:
        """Scores [N, V] float32 from `logits` [N, V] for the tokens at `positions` [N]."""
        scores = logits.float()
        if kind is SamplingKind.FILTERED:
            too_early = positions < params.first_eos_position
            scores = scores.masked_fill(too_early[:, None] & self.is_eos, -math.inf)
        if kind is not SamplingKind.GREEDY:
            scores = scores / params.temperature[:, None]
        return _filter(scores, params) if kind is SamplingKind.FILTERED else scores

    def pick(
        self, scores: Tensor, params: DeviceRowParams, positions: Tensor, kind: SamplingKind
    ) -> Tensor:
        """The next tokens, int64 [N], from processed `scores` [N, V]."""
        if kind is SamplingKind.GREEDY:
            return argmax(scores)
        noisy = scores + gumbel_from_keys(
            mix64_tensor(params.noise_key + positions), scores.shape[1]
        )
        return argmax(torch.where(params.sampled[:, None] > 0, noisy, scores))


def _filter(scores: Tensor, params: DeviceRowParams) -> Tensor:
    """Top-k, top-p, typical-p and min-p.

    All tokens are sorted: whether fewer would do is a value that the host would have to read.
    """
    size = scores.shape[1]
    best = scores.sort(-1, descending=True).values
    scores = _mask_below(scores, scores, best.gather(1, params.top_k[:, None] - 1))
    logs = scores.log_softmax(-1)
    scores = _mask_below(scores, logs, _mass_cutoff(logs, logs, params.top_p, size))
    logs = scores.log_softmax(-1)
    near = typicality(logs)
    scores = _mask_below(scores, near, _mass_cutoff(near, logs, params.typical_p, size))
    return _mask_below(scores, scores, scores.amax(-1, keepdim=True) + params.min_p[:, None].log())


def _mass_cutoff(key: Tensor, logs: Tensor, mass: Tensor, size: int) -> Tensor:
    """The lowest `key` to keep, [N, 1], for a probability `mass` [N]; -inf for a mass of 1."""
    cutoff, _ = mass_cutoff(key, logs, mass[:, None], size)
    return cutoff.masked_fill(mass[:, None] >= 1.0, -math.inf)


def _mask_below(scores: Tensor, key: Tensor, cutoff: Tensor) -> Tensor:
    return scores.masked_fill(key < cutoff, -math.inf)
