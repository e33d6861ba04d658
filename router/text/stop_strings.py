"""Stop strings in a text that arrives in pieces. Pure.

`InclusiveStops` follows TGI: each piece is emitted at once, special tokens by name, and the stop
string stays in the text. `ExclusiveStops` follows OpenAI: text that may be the start of a stop
string is held back until that is decided, and no part of it or of what follows is ever emitted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol


class Stops(Protocol):
    """Finds stop strings in the pieces of one text."""

    matched: str | None
    """The stop string that ended the text."""

    @property
    def text(self) -> str:
        """The text so far."""

    def push(self, piece: str, *, special: bool, last: bool) -> tuple[str, bool]:
        """Add a piece: the text to emit now, and whether a stop string is complete.

        `special`: the piece is the name of a special token. `last`: hold nothing back.
        """


class InclusiveStops:
    """Keeps stop strings in the text. Special tokens are emitted and searched, but not kept."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self._overlap = max(map(len, stops), default=1) - 1
        self._tail = ""
        self._parts: list[str] = []
        self.matched: str | None = None

    @property
    def text(self) -> str:
        """All pieces so far, except special tokens."""
        return "".join(self._parts)

    def push(self, piece: str, *, special: bool, last: bool) -> tuple[str, bool]:
        """Emit `piece`. A stop string may have started in an earlier one."""
        if not special:
            self._parts.append(piece)
        searched = self._tail + piece
        self._tail = searched[-self._overlap :] if self._overlap else ""
        self.matched = next((stop for stop in self._stops if stop in searched), None)
        return piece, self.matched is not None


class ExclusiveStops:
    """Leaves out stop strings and special tokens, except those in `visible_tokens`."""

    def __init__(self, stops: Sequence[str] = (), visible_tokens: Collection[str] = ()) -> None:
        self._stops, self._visible_tokens = stops, visible_tokens
        self._pending = ""
        self._parts: list[str] = []
        self.matched: str | None = None

    @property
    def text(self) -> str:
        """All text that was emitted."""
        return "".join(self._parts)

    def push(self, piece: str, *, special: bool, last: bool) -> tuple[str, bool]:
        """Emit what is decided. A special token also matches a stop string equal to its name."""
        hidden = special and piece not in self._visible_tokens
        is_stop = special and piece in self._stops
        self._pending += "" if hidden or is_stop else piece
        found = [(self._pending.find(stop), stop) for stop in self._stops]
        whole = (len(self._pending), piece if is_stop else None)
        end, self.matched = min((match for match in found if match[0] >= 0), default=whole)
        if self.matched is None and not last:
            end = self._held_from()
        emitted, self._pending = self._pending[:end], self._pending[end:]
        self._parts.append(emitted)
        return emitted, self.matched is not None

    def _held_from(self) -> int:
        """The start of the longest suffix of the pending text that may become a stop string."""
        starts = range(len(self._pending))
        held = (start for start in starts if self._may_become_stop(self._pending[start:]))
        return next(held, len(self._pending))

    def _may_become_stop(self, suffix: str) -> bool:
        return any(stop.startswith(suffix) for stop in self._stops)
