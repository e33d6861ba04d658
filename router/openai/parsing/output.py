"""One choice's text, parted as it comes: reasoning, content, tool calls. Pure but for ids.

Reasoning is what stands first, before a mark that the chat template itself knows. White space
around it belongs to the marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from router.openai.parsing.tool_calls import ToolCallDelta, ToolCallParser, held_suffix_length

REASONING_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """What one piece of text adds."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class ReasoningSplitter:
    """Parts reasoning from content at a pair of `marks`."""

    def __init__(self, tags: tuple[str, str], in_reasoning: bool) -> None:
        """`begun`: the prompt holds the opening mark already."""
        self._opening, self._closing = tags
        self._state = "reasoning" if in_reasoning else "start"
        self._held = ""
        self._has_reasoning = False
        """Whether any reasoning was told."""

    def push(self, text: str, last: bool) -> tuple[str, str]:
        """Reasoning and content; nothing is withheld behind the `last`."""
        self._held += text
        reasoning = ""
        if self._state == "start":
            self._match_opening(last)
        if self._state == "reasoning":
            reasoning = self._take_reasoning(last)
        if self._state == "gap":
            self._held = self._held.lstrip()
            self._state = "content" if self._held else "gap"
        if self._state != "content":
            return reasoning, ""
        content, self._held = self._held, ""
        return reasoning, content

    def _match_opening(self, last: bool) -> None:
        text = self._held.lstrip()
        if text.startswith(self._opening):
            self._held, self._state = text[len(self._opening) :], "reasoning"
        elif last or not self._opening.startswith(text):
            self._state = "content"

    def _take_reasoning(self, last: bool) -> str:
        held = self._held if self._has_reasoning else self._held.lstrip()
        told, mark, rest = held.partition(self._closing)
        if mark:
            self._held, self._state = rest, "gap"
            return told.rstrip()
        cut = len(told) - (0 if last else held_suffix_length(told, self._closing))
        self._held, self._has_reasoning = told[cut:], self._has_reasoning or cut > 0
        return told[:cut]


class OutputParser(Protocol):
    """Takes the shown text of a choice, piece by piece."""

    has_calls: bool
    """Whether there is a call."""

    def push(self, text: str, last: bool) -> OutputDelta:
        """What `text` adds; nothing is withheld behind the `last`."""


class DelegatingOutputParser:
    """Takes the shown text of a choice, piece by piece."""

    def __init__(
        self, reasoning_splitter: ReasoningSplitter | None, tool_call_parser: ToolCallParser
    ) -> None:
        self._reasoning_splitter, self._tool_call_parser = reasoning_splitter, tool_call_parser
        self.has_calls = False
        """Whether there is a call."""

    def push(self, text: str, last: bool) -> OutputDelta:
        """What `text` adds; nothing is withheld behind the `last`."""
        reasoning = ""
        if self._reasoning_splitter is not None:
            reasoning, text = self._reasoning_splitter.push(text, last)
        content, calls = self._tool_call_parser.push(text, last)
        self.has_calls = self.has_calls or bool(calls)
        return OutputDelta(content, reasoning, calls)


def find_reasoning_tags(template: str) -> tuple[str, str] | None:
    """The marks of reasoning that a chat template knows."""
    return next((marks for marks in REASONING_TAGS if marks[1] in template), None)
