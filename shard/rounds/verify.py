"""The target's word on every feed of a round: its choices and what is told about them.

A feed's last positions are choices: one after a whole prefill, one more than the drafts in a
verification, none in an earlier chunk. Where a row reports its prompt, the positions before them
score the prompt's next token with the model's unchanged logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.sampling.position import Position
from shard.sampling.sampler import logprobs, process, sample, top_tokens
from shard.wire.protocol import TopTokens

_PROMPT_BLOCK = 256
"""Most positions of a prompt whose logits are held in float32 at once."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One position: the token, its log-probability, and the likeliest ones if asked for."""

    token: int
    logprob: float
    top: TopTokens


@dataclass(frozen=True, slots=True)
class Verification:
    """What the target says at the positions of one feed."""

    sampled: list[SampledToken]
    prompt_logprobs: tuple[float, ...]
    """Log-probabilities of the prompt's tokens behind the feed's first, if reported."""
    prompt_top: tuple[TopTokens, ...]
    """The likeliest tokens at their places, if asked for."""
    valid: bool
    """False where a logit was NaN or infinite, or the row's grammar broke."""

    @property
    def tokens(self) -> list[int]:
        """The chosen tokens."""
        return [choice.token for choice in self.sampled]


def prompt_logprobs_wanted(row: CachedRow, start: int, stop: int) -> int:
    """How many of the prompt's tokens the positions from `start` to `stop` score."""
    return max(0, min(stop, row.prompt_length - 1) - start) if row.report.prompt_logprobs else 0


def verify(
    logits: Tensor, feeds: Sequence[TokenSpan], drafts: Sequence[Sequence[int]], eos: frozenset[int]
) -> list[Verification]:
    """The verdict on every feed; `logits` are those that `feeds` want, side by side."""
    stops = list(accumulate(feed.logit_count for feed in feeds))
    counts = [_sampled_count(feed) for feed in feeds]
    rows = [row for stop, n in zip(stops, counts, strict=True) for row in range(stop - n, stop)]
    spots = [
        feed.row.position_after(guess[:index])
        for feed, guess, count in zip(feeds, drafts, counts, strict=True)
        for index in range(count)
    ]
    with torch.inference_mode():
        sound = (logits.amax(-1) < float("inf")).tolist()  # False for NaN too
        chosen = iter(_sample(logits if len(rows) == len(logits) else logits[rows], spots, eos))
        return [
            Verification(
                [next(chosen) for _ in range(count)],
                *_score_prompt(feed, logits[stop - feed.logit_count : stop]),
                valid=all(sound[stop - feed.logit_count : stop]) and not _grammar_failed(feed.row),
            )
            for feed, stop, count in zip(feeds, stops, counts, strict=True)
        ]


def _sampled_count(feed: TokenSpan) -> int:
    return max(0, feed.start + len(feed.tokens) - len(feed.row.tokens) + 1)


def _grammar_failed(row: CachedRow) -> bool:
    return row.matcher is not None and row.matcher.broken


def _sample(
    logits: Tensor, positions: Sequence[Position], eos: frozenset[int]
) -> list[SampledToken]:
    if not positions:
        return []
    scores = process(logits, positions, eos)
    tokens = sample(scores, positions)
    raw = [row for row, spot in enumerate(positions) if spot.report.raw_logprobs]
    if raw:
        scores[raw] = logits[raw].float()
    logs = logprobs(scores)
    values = logs.gather(1, tokens[:, None])[:, 0]
    tops = top_tokens(logs, [spot.report.top_n for spot in positions])
    return list(map(SampledToken, tokens.tolist(), values.tolist(), tops))


def _score_prompt(
    feed: TokenSpan, logits: Tensor
) -> tuple[tuple[float, ...], tuple[TopTokens, ...]]:
    """What `logits`, the feed's own, say of the prompt's tokens that they predict."""
    count = prompt_logprobs_wanted(feed.row, feed.start, feed.start + len(feed.tokens))
    if not count:
        return (), ()
    first = feed.start + 1
    ids = torch.tensor(feed.row.tokens[first : first + count], device=logits.device)
    values: list[float] = []
    tops: list[TopTokens] = []
    for block, told in zip(
        torch.split(logits[:count], _PROMPT_BLOCK), torch.split(ids, _PROMPT_BLOCK), strict=True
    ):
        logs = logprobs(block.float())
        values += logs.gather(1, told[:, None])[:, 0].tolist()
        tops += top_tokens(logs, [feed.row.report.top_n] * len(told))
    return tuple(values), tuple(tops) if feed.row.report.top_n else ()
