"""Which tokens of one choice are its content, rather than reasoning, tool calls or their marks.

A parser holds text back until it knows what it is, so a token may be assigned some tokens later,
and the answer never changes. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from router.openai.parsing.output import OutputDelta, OutputParser


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of text, and the numbers of the tokens that it consists of."""

    text: str
    numbers: tuple[int, ...]


class ContentTokens:
    """Parses the text of one choice token by token, and keeps track of what became of each."""

    def __init__(self, parser: OutputParser) -> None:
        self._parser = parser
        self._count = 0
        self._silent: list[int] = []
        """Tokens without text so far, such as parts of a character; the next piece has theirs."""
        self._pieces: deque[_Piece] = deque()
        """Text that the parser has not decided about, of `_length` characters."""
        self._length = 0
        self._last_content = 0
        """Number of the last token that was assigned to the content."""

    @property
    def has_calls(self) -> bool:
        """Whether the output has a tool call."""
        return self._parser.has_calls

    def push(self, text: str, *, last: bool, hidden: bool) -> tuple[OutputDelta, list[int]]:
        """What the next token adds, and the numbers of the tokens that its content consists of.

        `text` is the text that appears with the token, which may belong to tokens before it. A
        `hidden` token has none itself. Tokens are numbered from 1; each number is returned once.
        """
        self._count += 1
        if not hidden:
            self._silent.append(self._count)
        if text:
            self._pieces.append(_Piece(text, tuple(self._silent)))
            self._length += len(text)
            self._silent = []
        delta = self._parser.push(text, last)
        decided = self._take_decided()
        spans = _content_spans("".join(piece.text for piece in decided), delta)
        return delta, self._select(decided, spans)

    def _take_decided(self) -> list[_Piece]:
        """Remove the pieces whose text the parser no longer holds; it may hold the end of one."""
        size = self._length - self._parser.held_length
        decided: list[_Piece] = []
        while self._pieces and size > 0:
            piece = self._pieces.popleft()
            decided.append(_Piece(piece.text[:size], piece.numbers))
            if len(piece.text) > size:
                self._pieces.appendleft(_Piece(piece.text[size:], piece.numbers))
            size -= len(decided[-1].text)
            self._length -= len(decided[-1].text)
        return decided

    def _select(self, pieces: Sequence[_Piece], spans: Sequence[tuple[int, int]]) -> list[int]:
        """The numbers of the tokens in `pieces` that have a character in one of `spans`."""
        selected: list[int] = []
        start = 0
        for piece in pieces:
            stop = start + len(piece.text)
            if any(first < stop and start < end for first, end in spans):
                selected += (number for number in piece.numbers if number > self._last_content)
                self._last_content = max(self._last_content, *piece.numbers, 0)
            start = stop
        return selected


def _content_spans(text: str, delta: OutputDelta) -> list[tuple[int, int]]:
    """Where the content of `delta` lies in the `text` that was decided about.

    Content follows reasoning and precedes calls. The parser may have added white space to it, or
    cut something out of its middle.
    """
    content = delta.content
    start = text.find(content) if delta.calls else text.rfind(content)
    if start >= 0:
        return [(start, start + len(content))] if content else []
    head, tail = _common_length(text, content), _common_length(text[::-1], content[::-1])
    return [(0, head), (len(text) - tail, len(text))]


def _common_length(left: str, right: str) -> int:
    """Length of the common prefix."""
    pairs = zip(left, right, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
