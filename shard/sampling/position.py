"""A position whose token is to be chosen, and everything that the choice may depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shard.sampling.grammar import Matcher
from shard.wire.protocol import ReportOptions, Sampling

_TOKENS_ONLY = ReportOptions()


@dataclass(frozen=True, slots=True)
class Position:
    """The position after `tokens` and `drafts`; the first `prompt_length` are the prompt."""

    sampling: Sampling
    tokens: Sequence[int]
    drafts: Sequence[int] = ()
    prompt_length: int = 0
    matcher: Matcher | None = None
    report: ReportOptions = _TOKENS_ONLY

    @property
    def index(self) -> int:
        """Absolute position of the token to be chosen."""
        return len(self.tokens) + len(self.drafts)

    @property
    def previous_token(self) -> int:
        """The token before this position."""
        return self.drafts[-1] if self.drafts else self.tokens[-1]

    @property
    def output(self) -> list[int]:
        """Tokens that were emitted or drafted before this position."""
        return [*self.tokens[self.prompt_length :], *self.drafts]
