"""The tokens of a request as its readers see them: ids with text and log-probabilities.

Rule: a token's text is decoded from its id here and nowhere else; the texts of most likely tokens
only when they are wanted, since an answer that waits for its client would keep them all. What the
shards report of a prompt is collected here, chunk by chunk, and read once the request has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.text.tokenizer import Tokenizer
from shard.wire.protocol import RowResult, TopTokens

NO_TOP_TOKENS = TopTokens((), ())


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token. `text` may be empty; `logprob` is a natural logarithm."""

    id: int
    text: str
    logprob: float
    special: bool
    top: TopTokens = NO_TOP_TOKENS
    """The most likely tokens at this position, if requested; `decode_top` adds their texts."""
    drafted: bool = False
    """Whether it was drafted and accepted; otherwise the target model chose it."""
    rejected: int = 0
    """Drafts that were rejected in favor of this token: the one at its place, and those after."""


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of the prompt. `logprob` is the raw model's; the first token has none."""

    id: int
    text: str
    logprob: float | None
    top: TopTokens = NO_TOP_TOKENS
    """The most likely tokens at this position, if requested."""
    special: bool = False


def decode_top(tokenizer: Tokenizer, top: TopTokens) -> tuple[GeneratedToken, ...]:
    """The most likely tokens of one position, each with its own text."""
    return tuple(
        GeneratedToken(id, tokenizer.decode([id]), logprob, is_special(tokenizer, id))
        for id, logprob in zip(top.ids, top.logprobs, strict=True)
    )


def is_special(tokenizer: Tokenizer, id: int) -> bool:
    """Whether a token is a special one of the tokenizer."""
    return tokenizer.special_name(id) is not None


class PromptReport:
    """What the shards have reported about the tokens of `prompt`; the first has no logprob."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt = prompt
        self._logprobs: list[float | None] = [None] * len(prompt)
        self._tops = [NO_TOP_TOKENS] * len(prompt)

    @property
    def is_complete(self) -> bool:
        """Whether every token but the first has its log-probability."""
        return None not in self._logprobs[1:]

    def add(self, item: RowResult) -> None:
        """Store the part of the prompt that one Step has fed."""
        part = slice(item.prompt_start, item.prompt_start + len(item.prompt_logprobs))
        self._logprobs[part] = item.prompt_logprobs
        self._tops[part] = item.prompt_top or [NO_TOP_TOKENS] * len(item.prompt_logprobs)

    def tokens(self, tokenizer: Tokenizer) -> list[PromptToken]:
        """The prompt as the model sees it."""
        columns = zip(self._prompt, self._logprobs, self._tops, strict=True)
        return [
            PromptToken(
                id,
                tokenizer.decode([id]),
                value,
                top,
                is_special(tokenizer, id),
            )
            for id, value, top in columns
        ]
