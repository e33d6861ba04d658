"""The text of a row as its tokens come: whole characters only, each exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.text.stop_strings import InclusiveStops, Stops
from router.text.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\ufffd"
MAX_INCOMPLETE_TOKENS = 8
"""Tokens without any text after which U+FFFD is shown: no character takes so many."""
MAX_CONTEXT_TOKENS = 8
"""Most prompt tokens before the first generated one that decide whether it opens with a space."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one more token adds; `stopped`: a stop string is now complete."""

    text: str
    special: bool
    stopped: bool


class Detokenizer:
    """Ids in, pieces of text out, of one request.

    The window holds the tokens of the last piece and those after it. The first are there since
    some decoders treat a first token differently; they begin and end between characters.
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
        """What is shown so far; the rule for special tokens is that of the stops."""
        return self._stops.text

    def push(self, id: int, *, last: bool = False) -> TextDelta:
        """Take one more token; nothing is withheld behind the `last`."""
        name = self._tokenizer.special_name(id)
        text = self._advance(id) if name is None else name
        shown, stopped = self._stops.push(text, special=name is not None, last=last)
        return TextDelta(shown, special=name is not None, stopped=stopped)

    def _advance(self, id: int) -> str:
        self._window.append(id)
        whole = self._tokenizer.decode(self._window)
        self._held_tokens += 1
        settled = (
            whole
            if self._held_tokens > MAX_INCOMPLETE_TOKENS
            else whole.rstrip(REPLACEMENT_CHARACTER)
        )
        piece = settled[len(self._emitted_text) :]
        if piece:
            self._held_tokens, self._emitted_text = 0, settled
        if settled == whole and (piece or self._held_tokens > MAX_INCOMPLETE_TOKENS):
            self._reset(self._window[self._context_size :])
        return piece


def _context_tokens(tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """The fewest last tokens of `prompt` that are whole characters; none if that takes many."""
    plain = [id for id in prompt[-MAX_CONTEXT_TOKENS:] if tokenizer.special_name(id) is None]
    windows = (plain[-size:] for size in range(1, len(plain) + 1))
    return next((ids for ids in windows if REPLACEMENT_CHARACTER not in tokenizer.decode(ids)), [])
