"""Sampling: processors, warpers, then a coupled choice with counter-based noise.

Draft and target choose by the same rule with the same noise: token = argmax(score + Gumbel noise)
where the noise is a hash of (seed, absolute position, token id) and nothing else (Gumbel-max
coupling). So the target's choice at a position never depends on the drafts, on the batch, or on
when the row ran, and a draft whose scores equal the target's chooses the same token. Every
processor sees the row's tokens and the drafts before the position. Greedy rows get no noise; ties
go to the lowest id.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from shard import progress
from shard.sampling import processors, warpers
from shard.sampling.position import Position
from shard.wire.protocol import Sampling, TopTokens

__all__ = ["Position", "gumbel_noise", "logprobs", "process", "sample", "stream_key", "top_tokens"]

_PROCESSORS = (
    processors.watermark,
    processors.repetition,
    processors.frequency_and_presence,
    processors.bias,
)
_WARPERS = (
    warpers.temperature,
    warpers.top_k,
    warpers.top_p,
    warpers.typical_p,
    warpers.min_p,
)
_MASK64 = (1 << 64) - 1


def process(logits: Tensor, positions: Sequence[Position], eos: Collection[int] = ()) -> Tensor:
    """Scores [N, V] float32 of `logits` [N, V]; `eos` tokens end a text and may be masked.

    In order: watermark, repetition, frequency and presence, bias, minimum length, grammar,
    temperature, top-k, top-p, typical-p, min-p. The result is the logits themselves
    if no row uses any of these.
    """
    if all(each.matcher is None and _is_neutral(each.sampling) for each in positions):
        return logits.float()
    scores = logits.to(torch.float32, copy=True)
    for step in _PROCESSORS:
        step(scores, positions)
        progress.advance()
    processors.mask_forbidden(scores, positions, eos)
    for step in _WARPERS:
        step(scores, positions)
        progress.advance()
    return scores


_NEUTRAL = tuple((field.name, field.default) for field in fields(Sampling) if field.name != "seed")
"""The values with which scores are the logits; the seed only matters to the choice."""


def _is_neutral(sampling: Sampling) -> bool:
    """Whether scores under `sampling` are the logits."""
    return all(getattr(sampling, name) == value for name, value in _NEUTRAL)


def sample(scores: Tensor, positions: Sequence[Position]) -> Tensor:
    """The chosen token of every position, int64 [N], from processed `scores` [N, V]."""
    sampled = [index for index, each in enumerate(positions) if each.sampling.temperature > 0]
    if sampled:
        noise = gumbel_noise(
            [positions[index] for index in sampled], scores.shape[1], scores.device
        )
        rows = torch.tensor(sampled, device=scores.device)
        scores = scores.index_add(0, rows, noise)
    return argmax(scores)


def argmax(scores: Tensor) -> Tensor:
    """Index of the first maximum in each row; NumPy is about thirty times as fast on CPU."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(-1))
    return scores.argmax(-1)


def logprobs(scores: Tensor) -> Tensor:
    """Natural-log probabilities [N, V] under `scores` [N, V]."""
    return scores.log_softmax(-1)


def top_tokens(logs: Tensor, counts: Sequence[int]) -> list[TopTokens]:
    """The `counts[i]` most likely tokens of row i of `logs` [N, V], in descending order.

    Ties with the last one are kept, so there may be more. Masked tokens are never included.
    """
    tops = [TopTokens((), ())] * len(counts)
    rows = [row for row, count in enumerate(counts) if count]
    if not rows:
        return tops
    selected = logs[rows]
    width = min(max(counts), logs.shape[1])
    last = torch.tensor([[min(counts[row], width) - 1] for row in rows], device=logs.device)
    cutoff = selected.topk(width).values.gather(1, last)
    kept = (selected >= cutoff) & (selected > -math.inf)
    for row, values, mask in zip(rows, selected, kept, strict=True):
        ids = mask.nonzero()[:, 0]
        order = values[ids].sort(descending=True, stable=True)
        tops[row] = TopTokens(tuple(ids[order.indices].tolist()), tuple(order.values.tolist()))
    return tops


def gumbel_noise(positions: Sequence[Position], vocabulary: int, device: torch.device) -> Tensor:
    """Standard Gumbel noise [N, V] float32, a pure function of seed, position and token id."""
    keys = [stream_key(position.sampling.seed, position.index) for position in positions]
    return gumbel_from_keys(torch.tensor([as_int64(key) for key in keys]).to(device), vocabulary)


def gumbel_from_keys(keys: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise [N, V] float32 for the stream keys `keys` [N], bits as int64.

    `-log(-log1p(-u))` with u from 31 hash bits: u is exact where it is small, and small u
    gives the large values, which decide the choice.
    """
    bits = _hash(keys, vocabulary)
    uniform = ((bits & 0x7FFFFFFF).float() + 0.5) * 2.0**-31
    uniform.clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _hash(keys: Tensor, vocabulary: int) -> Tensor:
    """Hash of key and token id, int32 [N, V]: two rounds of a 32-bit finaliser."""
    low, high = keys.view(torch.int32).view(-1, 2, 1).unbind(1)  # little-endian
    ids = torch.arange(vocabulary, dtype=torch.int32, device=keys.device)
    return _murmur_finalise(_murmur_finalise(ids[None] + low) ^ high)


def _murmur_finalise(value: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3, on wrapping int32; shifts are logical."""
    value = (value ^ ((value >> 16) & 0xFFFF)) * -0x7A143595
    value = (value ^ ((value >> 13) & 0x7FFFF)) * -0x3D4D51CB
    return value ^ ((value >> 16) & 0xFFFF)


def stream_key(seed: int, position: int) -> int:
    """The 64-bit key of the noise at one position: SplitMix64 over seed, then position."""
    return mix64((mix64(seed) + position) & _MASK64)


def mix64(value: int) -> int:
    """One step of SplitMix64 (Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def mix64_tensor(values: Tensor) -> Tensor:
    """`mix64` of the bits in `values`, int64, whose arithmetic wraps; shifts are logical."""
    values = values + as_int64(0x9E3779B97F4A7C15)
    values = (values ^ ((values >> 30) & (_MASK64 >> 30))) * as_int64(0xBF58476D1CE4E5B9)
    values = (values ^ ((values >> 27) & (_MASK64 >> 27))) * as_int64(0x94D049BB133111EB)
    return values ^ ((values >> 31) & (_MASK64 >> 31))


def as_int64(value: int) -> int:
    """The int64 of the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value
