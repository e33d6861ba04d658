"""Which earlier tokens of its row a token attends to: all, a window of the last ones, or its chunk.

Pure arithmetic on positions, the same for the host's masks and for those on a device.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Visibility:
    """The limit of causal attention, of which at most one is set."""

    window: int | None = None
    """Number of tokens, itself included, that a token sees."""
    chunk: int | None = None
    """A token sees only those of its own chunk: positions with the same quotient by this size."""

    def first_key(self, position: int) -> int:
        """The position of the first key that the token at `position` sees."""
        if self.chunk is not None:
            return position // self.chunk * self.chunk
        return 0 if self.window is None else max(0, position - self.window + 1)

    def hides(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether the query at each position does not see the key at each position; broadcast."""
        hidden = keys > queries
        if self.window is not None:
            hidden = hidden | (keys <= queries - self.window)
        if self.chunk is not None:
            hidden = hidden | (keys < queries // self.chunk * self.chunk)
        return hidden


EVERY_KEY = Visibility()
"""Causal attention without a limit."""
