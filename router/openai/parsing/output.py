"""One choice's text, parted as it comes: reasoning, content, tool calls. Pure but for ids.

Reasoning is what stands first, before a mark that the chat template itself knows. White space
around it belongs to the marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from router.openai.parsing.tool_calls import CallDelta, Caller, waiting

MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class Delta:
    """What one piece of text adds."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


class Thinking:
    """Parts reasoning from content at a pair of `marks`."""

    def __init__(self, marks: tuple[str, str], begun: bool) -> None:
        """`begun`: the prompt holds the opening mark already."""
        self._opening, self._closing = marks
        self._state = "reasoning" if begun else "start"
        self._held = ""
        self._begun = False
        """Whether any reasoning was told."""

    def push(self, text: str, last: bool) -> tuple[str, str]:
        """Reasoning and content; nothing is withheld behind the `last`."""
        self._held += text
        reasoning = ""
        if self._state == "start":
            self._begin(last)
        if self._state == "reasoning":
            reasoning = self._reason(last)
        if self._state == "gap":
            self._held = self._held.lstrip()
            self._state = "content" if self._held else "gap"
        if self._state != "content":
            return reasoning, ""
        content, self._held = self._held, ""
        return reasoning, content

    def _begin(self, last: bool) -> None:
        text = self._held.lstrip()
        if text.startswith(self._opening):
            self._held, self._state = text[len(self._opening) :], "reasoning"
        elif last or not self._opening.startswith(text):
            self._state = "content"

    def _reason(self, last: bool) -> str:
        held = self._held if self._begun else self._held.lstrip()
        told, mark, rest = held.partition(self._closing)
        if mark:
            self._held, self._state = rest, "gap"
            return told.rstrip()
        cut = len(told) - (0 if last else waiting(told, self._closing))
        self._held, self._begun = told[cut:], self._begun or cut > 0
        return told[:cut]


class Reader(Protocol):
    """Takes the shown text of a choice, piece by piece."""

    called: bool
    """Whether there is a call."""

    def push(self, text: str, last: bool) -> Delta:
        """What `text` adds; nothing is withheld behind the `last`."""


class Reply:
    """Takes the shown text of a choice, piece by piece."""

    def __init__(self, thinking: Thinking | None, caller: Caller) -> None:
        self._thinking, self._caller = thinking, caller
        self.called = False
        """Whether there is a call."""

    def push(self, text: str, last: bool) -> Delta:
        """What `text` adds; nothing is withheld behind the `last`."""
        reasoning = ""
        if self._thinking is not None:
            reasoning, text = self._thinking.push(text, last)
        content, calls = self._caller.push(text, last)
        self.called = self.called or bool(calls)
        return Delta(content, reasoning, calls)


def marks_of(template: str) -> tuple[str, str] | None:
    """The marks of reasoning that a chat template knows."""
    return next((marks for marks in MARKS if marks[1] in template), None)
