"""What the echo engine replies: pure functions of (prompt, seed, position).

Tests compute expected answers with them. They know no row, no cache and no Step.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

from shard.wire.protocol import End, NewRow, RowResult, TopTokens

EOS = 0
"""End-of-sequence token id."""


def reply_token(prompt: Sequence[int], seed: int, position: int) -> int:
    """The token at absolute `position`: one of the prompt's, or EOS with probability 1/64."""
    noise = _noise(array("i", prompt).tobytes(), seed, position)
    return EOS if noise % 64 == 0 else prompt[noise // 64 % len(prompt)]


def draft_agrees(seed: int, position: int) -> bool:
    """Whether the draft at absolute `position` equals the target's token: in 3 of 4 cases."""
    return _noise(b"draft", seed, position) % 4 != 0


def reply_logprob(seed: int, position: int) -> float:
    """A log-probability that float32 represents exactly."""
    return -(_noise(b"logprob", seed, position) % 1024) / 256


def full_reply(
    prompt: Sequence[int], seed: int, max_new: int, ignore_eos: bool = False
) -> tuple[tuple[int, ...], End]:
    """The whole reply to `prompt`, and why it ends."""
    tokens = []
    for position in range(len(prompt), len(prompt) + max_new):
        tokens.append(reply_token(prompt, seed, position))
        if len(tokens) < max_new and tokens[-1] == EOS and not ignore_eos:
            return tuple(tokens), End.EOS
    return tuple(tokens), End.LENGTH


def top_tokens(token: int, logprob: float, count: int) -> TopTokens:
    """The chosen token first, then others, `count` in total."""
    others = [id for id in range(count) if id != token][: count - 1]
    return TopTokens((token, *others), tuple(logprob - rank for rank in range(1 + len(others))))


def with_prompt_logprobs(item: RowResult, new: NewRow, start: int, stop: int) -> RowResult:
    """`item` with log-probabilities of the prompt from `start` to `stop`, if requested."""
    positions = range(start + 1, min(stop + 1, new.prompt))
    if not new.report.prompt_logprobs or not positions:
        return item
    logprobs = tuple(reply_logprob(new.sampling.seed, position) for position in positions)
    tops = tuple(
        top_tokens(new.tokens[position], value, new.report.top_n)
        for position, value in zip(positions, logprobs, strict=True)
        if new.report.top_n
    )
    return replace(item, prompt_start=positions.start, prompt_logprobs=logprobs, prompt_top=tops)


def _noise(salt: bytes, seed: int, position: int) -> int:
    return crc32(f"{seed} {position}".encode(), crc32(salt))
