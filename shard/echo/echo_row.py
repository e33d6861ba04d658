"""One row of the echo engine: its tokens, and how many of them the caches count as held."""

from __future__ import annotations

from dataclasses import dataclass, field

from shard.echo.replies import EOS
from shard.wire.protocol import End, NewRow


@dataclass(slots=True)
class EchoRow:
    """`cached` of the `tokens` are in the cache; while a row decodes, its last token never is."""

    new: NewRow
    tokens: list[int]
    cached: int = 0
    draft_cached: int = 0
    """Number of leading tokens in the draft's cache."""
    checksums: list[int] = field(default_factory=list)
    """Of the leading tokens, as far as they were needed."""
    pages: list[int] = field(default_factory=list)
    end: End | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.new.tokens[: self.new.prompt]

    @property
    def remaining(self) -> int:
        """Number of tokens that may still be emitted."""
        return self.new.prompt + self.new.max_new - len(self.tokens)

    @property
    def seed(self) -> int:
        """What the reply depends on in addition to the prompt: seed and adapter."""
        return self.new.sampling.seed + (self.new.adapter << 64)

    def end_reason(self) -> End | None:
        """Why the row ends after its last token; None if it goes on."""
        if self.remaining == 0:
            return End.LENGTH
        return End.EOS if self.tokens[-1] == EOS and not self.new.ignore_eos else None
