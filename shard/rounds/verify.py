"""What the target says of every span of a round: its choices and what is reported about them.

The last positions of a span are choices: one at the end of a prefill, one more than the drafts in
a verification, none in an earlier chunk. Where a row reports its prompt, the positions before them
score the prompt's next token with the model's unchanged logits. Which choices are emitted is
decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from shard import progress
from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.sampling.position import Position
from shard.sampling.sampler import logprobs, process, sample, top_tokens
from shard.wire.protocol import TopTokens

_PROMPT_BLOCK = 256
"""Maximum number of prompt positions whose logits are held in float32 at once."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One position: the token, its log-probability, and the most likely tokens if requested."""

    token: int
    logprob: float
    top: TopTokens


@dataclass(frozen=True, slots=True)
class Verification:
    """What the target says at the positions of one span."""

    sampled: list[SampledToken]
    prompt_logprobs: tuple[float, ...]
    """Log-probabilities of the prompt's tokens after the span's first, if reported."""
    prompt_top: tuple[TopTokens, ...]
    """The most likely tokens at these positions, if requested."""
    valid: bool
    """False where a logit is NaN or infinite, or the grammar allows no token after the row's."""
    usable: int = 0
    """Number of leading positions whose tokens are usable; the grammar may fail after a draft."""
    fault: str = ""
    """What is wrong with the grammar at the first position, for the client."""

    @property
    def tokens(self) -> list[int]:
        """The chosen tokens."""
        return [choice.token for choice in self.sampled]


def prompt_logprobs_wanted(row: CachedRow, start: int, stop: int) -> int:
    """Number of prompt tokens that positions `start` to `stop` score; 0 if not reported."""
    return max(0, min(stop, row.prompt_length - 1) - start) if row.report.prompt_logprobs else 0


def verify(
    logits: Tensor, spans: Sequence[TokenSpan], drafts: Sequence[Sequence[int]], eos: frozenset[int]
) -> list[Verification]:
    """One `Verification` per span; `logits` [sum of logit counts, V] are theirs, side by side."""
    stops = list(accumulate(span.logit_count for span in spans))
    counts = [_sampled_count(span) for span in spans]
    rows = [row for stop, n in zip(stops, counts, strict=True) for row in range(stop - n, stop)]
    positions = [
        span.row.position_after(proposed[:index])
        for span, proposed, count in zip(spans, drafts, counts, strict=True)
        for index in range(count)
    ]
    with torch.inference_mode():
        finite = (logits.amax(-1) < float("inf")).tolist()  # False for NaN too
        chosen = iter(_sample(logits if len(rows) == len(logits) else logits[rows], positions, eos))
        faults = iter([_grammar_fault(position) for position in positions])
        return [
            _with_faults(
                Verification(
                    [next(chosen) for _ in range(count)],
                    *_score_prompt(span, logits[stop - span.logit_count : stop]),
                    valid=all(finite[stop - span.logit_count : stop]),
                ),
                [next(faults) for _ in range(count)],
            )
            for span, stop, count in zip(spans, stops, counts, strict=True)
        ]


def _with_faults(verification: Verification, faults: Sequence[str]) -> Verification:
    """`verification` with what the grammar says at its positions: empty texts if all is well."""
    usable = next((index for index, fault in enumerate(faults) if fault), len(faults))
    fault = faults[0] if faults else ""
    valid = verification.valid and not fault
    return replace(verification, valid=valid, usable=usable, fault=fault)


def _sampled_count(span: TokenSpan) -> int:
    return max(0, span.start + len(span.tokens) - len(span.row.tokens) + 1)


def _grammar_fault(position: Position) -> str:
    return "" if position.matcher is None else position.matcher.fault(position.output)


def _sample(
    logits: Tensor, positions: Sequence[Position], eos: frozenset[int]
) -> list[SampledToken]:
    if not positions:
        return []
    scores = process(logits, positions, eos)
    tokens = sample(scores, positions)
    raw = [row for row, position in enumerate(positions) if position.report.raw_logprobs]
    if raw:
        scores[raw] = logits[raw].float()
    logs = logprobs(scores)
    values = logs.gather(1, tokens[:, None])[:, 0]
    tops = top_tokens(logs, [position.report.top_n for position in positions])
    return list(map(SampledToken, tokens.tolist(), values.tolist(), tops))


def _score_prompt(
    span: TokenSpan, logits: Tensor
) -> tuple[tuple[float, ...], tuple[TopTokens, ...]]:
    """Log-probabilities and most likely tokens, from the span's own `logits`, of the prompt."""
    count = prompt_logprobs_wanted(span.row, span.start, span.start + len(span.tokens))
    if not count:
        return (), ()
    first = span.start + 1
    ids = torch.tensor(span.row.tokens[first : first + count], device=logits.device)
    values: list[float] = []
    tops: list[TopTokens] = []
    for block, tokens in zip(
        torch.split(logits[:count], _PROMPT_BLOCK), torch.split(ids, _PROMPT_BLOCK), strict=True
    ):
        logs = logprobs(block.float())
        values += logs.gather(1, tokens[:, None])[:, 0].tolist()
        tops += top_tokens(logs, [span.row.report.top_n] * len(tokens))
        progress.advance()
    return tuple(values), tuple(tops) if span.row.report.top_n else ()
