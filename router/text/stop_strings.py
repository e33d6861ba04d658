"""Stop strings in a text that grows piece by piece. Pure.

`InclusiveStops` follows TGI: a piece is shown as it comes, special tokens by name, and the stop
stays. `ExclusiveStops` follows OpenAI: what may be the start of a stop waits until that is decided,
and neither a part of a stop nor what comes behind it is ever shown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol


class Stops(Protocol):
    """Takes the pieces of one text."""

    @property
    def text(self) -> str:
        """The whole text so far."""

    def push(self, piece: str, *, special: bool, last: bool) -> tuple[str, bool]:
        """What to show now, and whether a stop is complete; nothing waits behind the `last`."""


class InclusiveStops:
    """Stops stay in the text; special tokens are shown, and matched, but are no part of it."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self._overlap = max(map(len, stops), default=1) - 1
        self._tail = ""
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All pieces so far, without special tokens."""
        return "".join(self._parts)

    def push(self, piece: str, *, special: bool, last: bool) -> tuple[str, bool]:
        """Show `piece`; a stop may begin in earlier ones."""
        if not special:
            self._parts.append(piece)
        searched = self._tail + piece
        self._tail = searched[-self._overlap :] if self._overlap else ""
        return piece, any(stop in searched for stop in self._stops)


class ExclusiveStops:
    """Stops and special tokens stay out of the text, but for the special tokens named `shown`."""

    def __init__(self, stops: Sequence[str] = (), visible_tokens: Collection[str] = ()) -> None:
        self._stops, self._visible_tokens = stops, visible_tokens
        self._pending = ""
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All that was shown."""
        return "".join(self._parts)

    def push(self, piece: str, *, special: bool, last: bool) -> tuple[str, bool]:
        """Show what is certain. A special token is a stop where one names it whole."""
        hidden = special and piece not in self._visible_tokens
        named = special and piece in self._stops
        self._pending += "" if hidden or named else piece
        found = [place for stop in self._stops if (place := self._pending.find(stop)) >= 0]
        stopped = bool(found) or named
        cut = min(found, default=len(self._pending) if last or named else self._undecided_from())
        shown, self._pending = self._pending[:cut], self._pending[cut:]
        self._parts.append(shown)
        return shown, stopped

    def _undecided_from(self) -> int:
        """Where the longest end of the held text that may become a stop begins."""
        ends = range(len(self._pending))
        starts = (place for place in ends if self._may_become_stop(self._pending[place:]))
        return next(starts, len(self._pending))

    def _may_become_stop(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops)
