"""Incremental detokenization of one row: complete characters only, each exactly once.

A token whose bytes do not complete a character has the text "", and at the end of the output they
are dropped; U+FFFD is emitted only for bytes that can never become one. Special tokens are emitted
by name. Which of them are part of the whole text, `stop_strings` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.text.stop_strings import InclusiveStops, Stops
from router.text.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\ufffd"
MAX_INCOMPLETE_TOKENS = 8
"""After this many tokens without text U+FFFD is emitted, since no character needs more."""
MAX_CONTEXT_TOKENS = 8
"""Maximum number of prompt tokens that are decoded before the first generated one, since they
decide whether its text starts with a space."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The text that one token adds. `stopped`: it completes a stop string."""

    text: str
    special: bool
    stopped: bool


class Detokenizer:
    """Turns the token ids of one request into pieces of text.

    The window holds the tokens of the last emitted piece, its context, and the tokens after it. The
    context is there because some decoders treat the first token differently. It starts and ends at
    character boundaries.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Stops | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = stops or InclusiveStops()
        self._reset(_context_tokens(tokenizer, prompt))

    def _reset(self, window: list[int]) -> None:
        self._window = window
        self._context_size = len(window)
        self._emitted_text = self._tokenizer.decode(window)
        self._held_tokens = 0

    @property
    def text(self) -> str:
        """All text so far; the stops decide whether it includes special tokens."""
        return self._stops.text

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text; None if none did."""
        return self._stops.matched

    def push(self, id: int, *, last: bool = False, hidden: bool = False) -> TextDelta:
        """Add a token. Text that might become a stop string is not held back for the `last`.

        `hidden`: it ends the text, so it is special even if the tokenizer does not say so.
        """
        name = self._tokenizer.special_name(id)
        if name is None and hidden:
            name = self._tokenizer.decode([id])
        text = self._advance(id) if name is None else name
        emitted, stopped = self._stops.push(text, special=name is not None, last=last)
        return TextDelta(emitted, special=name is not None, stopped=stopped)

    def _advance(self, id: int) -> str:
        self._window.append(id)
        decoded = self._tokenizer.decode(self._window)
        self._held_tokens += 1
        gave_up = self._held_tokens > MAX_INCOMPLETE_TOKENS
        complete = decoded if gave_up else decoded.rstrip(REPLACEMENT_CHARACTER)
        piece = complete[len(self._emitted_text) :]
        if piece:
            self._held_tokens, self._emitted_text = 0, complete
        if complete == decoded and (piece or gave_up):
            self._reset(self._window[self._context_size :])
        return piece


def _context_tokens(tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """The shortest end of `prompt` that decodes to complete characters; empty if it is too long."""
    plain = [id for id in prompt[-MAX_CONTEXT_TOKENS:] if tokenizer.special_name(id) is None]
    windows = (plain[-size:] for size in range(1, len(plain) + 1))
    return next((ids for ids in windows if REPLACEMENT_CHARACTER not in tokenizer.decode(ids)), [])
