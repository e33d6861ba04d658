"""Which token comes next: processors, then the counter-based coupled choice.

Draft and target choose by the same rule with the same noise: token = argmax(score + Gumbel noise)
where the noise is a hash of (seed, absolute position, token id) and nothing else (Gumbel-max
coupling). The target's choice at a position therefore never depends on what was drafted, on the
batch, or on when the row ran, and a draft that scores like the target chooses alike. Every
processor sees the row's tokens and the drafts before the position. Greedy rows get no noise;
ties go to the lowest id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.protocol import Sampling

_CANDIDATES = 1024
"""Top-p looks at this many tokens first; rows whose mass lies deeper are sorted in full."""
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Spot:
    """A position whose token is to be chosen: after `tokens` and then `drafts`."""

    sampling: Sampling
    tokens: Sequence[int]
    drafts: Sequence[int] = ()

    @property
    def position(self) -> int:
        """Absolute position of the token to choose."""
        return len(self.tokens) + len(self.drafts)


def process(logits: Tensor, spots: Sequence[Spot]) -> Tensor:
    """Scores [N, V] float32 of `logits` [N, V]: penalty, temperature, top-k, top-p, in order."""
    scores = logits.float().clone()
    _repetition_penalty(scores, spots)
    _temperature(scores, spots)
    _top_k(scores, spots)
    _top_p(scores, spots)
    return scores


def pick(scores: Tensor, spots: Sequence[Spot]) -> Tensor:
    """The chosen token of every spot, int64 [N], from processed `scores` [N, V]."""
    sampled = [index for index, spot in enumerate(spots) if spot.sampling.temperature > 0]
    if sampled:
        noise = gumbel([spots[index] for index in sampled], scores.shape[1], scores.device)
        rows = torch.tensor(sampled, device=scores.device)
        scores = scores.index_add(0, rows, noise)
    return _argmax(scores)


def _argmax(scores: Tensor) -> Tensor:
    """The first of the largest scores; on the host NumPy finds it some thirty times as fast."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(-1))
    return scores.argmax(-1)


def logprobs(scores: Tensor, tokens: Tensor) -> Tensor:
    """Natural-log probability [N] of `tokens` [N] under processed `scores` [N, V]."""
    return scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def gumbel(spots: Sequence[Spot], vocabulary: int, device: torch.device) -> Tensor:
    """Standard Gumbel noise [N, V] float32, a pure function of seed, position and token id.

    `-log(-log1p(-u))` with u from 31 hash bits: u is exact where it is small, and small u is
    where the large values, the winners, come from.
    """
    bits = _hash(spots, vocabulary, device)
    uniform = ((bits & 0x7FFFFFFF).float() + 0.5) * 2.0**-31
    uniform.clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _hash(spots: Sequence[Spot], vocabulary: int, device: torch.device) -> Tensor:
    """int32 [N, V]: two rounds of a 32-bit finaliser keyed by 64 bits per spot."""
    keys = [stream_key(spot.sampling.seed, spot.position) for spot in spots]
    low = torch.tensor([_signed(key & 0xFFFFFFFF) for key in keys], dtype=torch.int32)
    high = torch.tensor([_signed(key >> 32) for key in keys], dtype=torch.int32)
    ids = torch.arange(vocabulary, dtype=torch.int32, device=device)
    value = _finalise(ids[None] + low.to(device)[:, None])
    return _finalise(value ^ high.to(device)[:, None])


def _finalise(value: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3, on wrapping int32; shifts are logical."""
    value = (value ^ ((value >> 16) & 0xFFFF)) * -0x7A143595
    value = (value ^ ((value >> 13) & 0x7FFFF)) * -0x3D4D51CB
    return value ^ ((value >> 16) & 0xFFFF)


def stream_key(seed: int, position: int) -> int:
    """64 bits that name the noise of one position: SplitMix64 over seed, then position."""
    return _mix64((_mix64(seed) + position) & _MASK64)


def _mix64(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def _repetition_penalty(scores: Tensor, spots: Sequence[Spot]) -> None:
    """Divide positive and multiply negative scores of every token seen, once per token."""
    for row, spot in enumerate(spots):
        penalty = spot.sampling.repetition_penalty
        if penalty == 1.0:
            continue
        seen = torch.tensor(sorted({*spot.tokens, *spot.drafts}), device=scores.device)
        old = scores[row, seen]
        scores[row, seen] = torch.where(old < 0, old * penalty, old / penalty)


def _temperature(scores: Tensor, spots: Sequence[Spot]) -> None:
    values = [spot.sampling.temperature or 1.0 for spot in spots]
    if any(value != 1.0 for value in values):
        scores /= torch.tensor(values, device=scores.device)[:, None]


def _top_k(scores: Tensor, spots: Sequence[Spot]) -> None:
    """Keep the k best tokens of a row, and what ties with the k-th."""
    ks = [min(spot.sampling.top_k, scores.shape[1]) for spot in spots]
    rows = torch.tensor([row for row, k in enumerate(ks) if k], device=scores.device)
    if not len(rows):
        return
    best = scores[rows].topk(max(ks)).values
    last = torch.tensor([k - 1 for k in ks if k], device=scores.device)
    _keep_from(scores, rows, best.gather(1, last[:, None]))


def _top_p(scores: Tensor, spots: Sequence[Spot]) -> None:
    """Keep the fewest best tokens whose mass reaches p, and what ties with the last."""
    limits = {row: s.sampling.top_p for row, s in enumerate(spots) if s.sampling.top_p < 1}
    if not limits:
        return
    rows = torch.tensor(list(limits), device=scores.device)
    mass = torch.tensor(list(limits.values()), device=scores.device)[:, None]
    width = min(_CANDIDATES, scores.shape[1])
    cutoff, reached = _nucleus(scores[rows], mass, width)
    if not reached:
        cutoff, _ = _nucleus(scores[rows], mass, scores.shape[1])
    _keep_from(scores, rows, cutoff)


def _nucleus(scores: Tensor, mass: Tensor, width: int) -> tuple[Tensor, bool]:
    """The lowest score kept, [N, 1], among the `width` best, and whether they hold the mass."""
    best = scores.topk(width).values
    probabilities = (best - scores.logsumexp(-1, keepdim=True)).exp()
    before = probabilities.cumsum(-1) - probabilities
    last = (before < mass).sum(-1, keepdim=True) - 1
    reached = width == scores.shape[1] or bool((probabilities.sum(-1, keepdim=True) >= mass).all())
    return best.gather(1, last.clamp(min=0)), reached


def _keep_from(scores: Tensor, rows: Tensor, cutoff: Tensor) -> None:
    kept = scores[rows]
    scores[rows] = kept.masked_fill(kept < cutoff, float("-inf"))
