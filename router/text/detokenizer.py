"""The text of a row as its tokens come: whole characters only, each exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.text.stop_strings import Kept, Stops
from router.text.tokenizer import Vocabulary

INCOMPLETE = "\ufffd"
PATIENCE = 8
"""Tokens without any text after which U+FFFD is shown: no character takes so many."""
CONTEXT = 8
"""Most prompt tokens before the first generated one that decide whether it opens with a space."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one more token adds; `stopped`: a stop string is now complete."""

    text: str
    special: bool
    stopped: bool


class TextStream:
    """Ids in, pieces of text out, of one request.

    The window holds the tokens of the last piece and those after it. The first are there since
    some decoders treat a first token differently; they begin and end between characters.
    """

    def __init__(
        self, vocabulary: Vocabulary, prompt: Sequence[int], stops: Stops | None = None
    ) -> None:
        self._vocabulary = vocabulary
        self._stops = stops or Kept()
        self._reset(_context(vocabulary, prompt))

    def _reset(self, window: list[int]) -> None:
        self._window = window
        self._kept = len(window)
        self._shown = self._vocabulary.decode(window)
        self._silent = 0

    @property
    def text(self) -> str:
        """What is shown so far; the rule for special tokens is that of the stops."""
        return self._stops.text

    def push(self, id: int, *, last: bool = False) -> Piece:
        """Take one more token; nothing is withheld behind the `last`."""
        name = self._vocabulary.special(id)
        text = self._advance(id) if name is None else name
        shown, stopped = self._stops.push(text, special=name is not None, last=last)
        return Piece(shown, special=name is not None, stopped=stopped)

    def _advance(self, id: int) -> str:
        self._window.append(id)
        whole = self._vocabulary.decode(self._window)
        self._silent += 1
        settled = whole if self._silent > PATIENCE else whole.rstrip(INCOMPLETE)
        piece = settled[len(self._shown) :]
        if piece:
            self._silent, self._shown = 0, settled
        if settled == whole and (piece or self._silent > PATIENCE):
            self._reset(self._window[self._kept :])
        return piece


def _context(vocabulary: Vocabulary, prompt: Sequence[int]) -> list[int]:
    """The fewest last tokens of `prompt` that are whole characters; none if that takes many."""
    plain = [id for id in prompt[-CONTEXT:] if vocabulary.special(id) is None]
    windows = (plain[-size:] for size in range(1, len(plain) + 1))
    return next((ids for ids in windows if INCOMPLETE not in vocabulary.decode(ids)), [])
