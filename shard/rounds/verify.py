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

from shard.batch.packing import Feed
from shard.batch.rows import Row
from shard.sampling.position import Spot
from shard.sampling.sampler import best, logprobs, pick, process
from shard.wire.protocol import Top

_BLOCK = 256
"""Most positions of a prompt whose logits are held in float32 at once."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One position: the token, its log-probability, and the likeliest ones if asked for."""

    token: int
    logprob: float
    top: Top


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the target says at the positions of one feed."""

    choices: list[Choice]
    prompt: tuple[float, ...]
    """Log-probabilities of the prompt's tokens behind the feed's first, if reported."""
    prompt_top: tuple[Top, ...]
    """The likeliest tokens at their places, if asked for."""
    sound: bool
    """False where a logit was NaN or infinite, or the row's grammar broke."""

    @property
    def tokens(self) -> list[int]:
        """The chosen tokens."""
        return [choice.token for choice in self.choices]


def reported(row: Row, start: int, stop: int) -> int:
    """How many of the prompt's tokens the positions from `start` to `stop` score."""
    return max(0, min(stop, row.prompt - 1) - start) if row.report.prompt else 0


def judge(
    logits: Tensor, feeds: Sequence[Feed], drafts: Sequence[Sequence[int]], eos: frozenset[int]
) -> list[Verdict]:
    """The verdict on every feed; `logits` are those that `feeds` want, side by side."""
    stops = list(accumulate(feed.logits for feed in feeds))
    counts = [_choices(feed) for feed in feeds]
    rows = [row for stop, n in zip(stops, counts, strict=True) for row in range(stop - n, stop)]
    spots = [
        feed.row.spot(guess[:index])
        for feed, guess, count in zip(feeds, drafts, counts, strict=True)
        for index in range(count)
    ]
    with torch.inference_mode():
        sound = (logits.amax(-1) < float("inf")).tolist()  # False for NaN too
        chosen = iter(_choose(logits if len(rows) == len(logits) else logits[rows], spots, eos))
        return [
            Verdict(
                [next(chosen) for _ in range(count)],
                *_prompt(feed, logits[stop - feed.logits : stop]),
                sound=all(sound[stop - feed.logits : stop]) and not _broken(feed.row),
            )
            for feed, stop, count in zip(feeds, stops, counts, strict=True)
        ]


def _choices(feed: Feed) -> int:
    return max(0, feed.start + len(feed.tokens) - len(feed.row.tokens) + 1)


def _broken(row: Row) -> bool:
    return row.matcher is not None and row.matcher.broken


def _choose(logits: Tensor, spots: Sequence[Spot], eos: frozenset[int]) -> list[Choice]:
    if not spots:
        return []
    scores = process(logits, spots, eos)
    tokens = pick(scores, spots)
    raw = [row for row, spot in enumerate(spots) if spot.report.raw]
    if raw:
        scores[raw] = logits[raw].float()
    logs = logprobs(scores)
    values = logs.gather(1, tokens[:, None])[:, 0]
    tops = best(logs, [spot.report.top_n for spot in spots])
    return list(map(Choice, tokens.tolist(), values.tolist(), tops))


def _prompt(feed: Feed, logits: Tensor) -> tuple[tuple[float, ...], tuple[Top, ...]]:
    """What `logits`, the feed's own, say of the prompt's tokens that they predict."""
    count = reported(feed.row, feed.start, feed.start + len(feed.tokens))
    if not count:
        return (), ()
    first = feed.start + 1
    ids = torch.tensor(feed.row.tokens[first : first + count], device=logits.device)
    values: list[float] = []
    tops: list[Top] = []
    for block, told in zip(
        torch.split(logits[:count], _BLOCK), torch.split(ids, _BLOCK), strict=True
    ):
        logs = logprobs(block.float())
        values += logs.gather(1, told[:, None])[:, 0].tolist()
        tops += best(logs, [feed.row.report.top_n] * len(told))
    return tuple(values), tuple(tops) if feed.row.report.top_n else ()
