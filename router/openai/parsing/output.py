"""Splits the text of one choice, as it arrives, into reasoning, content and tool calls.

Reasoning comes first, between tags that the chat template itself contains. White space around it
belongs to the tags. Pure but for ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from router.openai.parsing.tool_calls import ToolCallDelta, ToolCallParser, held_suffix_length

REASONING_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """What one piece of text adds to the message."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class ReasoningSplitter:
    """Splits reasoning from content at a pair of `tags`."""

    def __init__(self, tags: tuple[str, str], in_reasoning: bool) -> None:
        """`in_reasoning`: the prompt already ends with the opening tag."""
        self._opening, self._closing = tags
        self._state = "reasoning" if in_reasoning else "start"
        self._held = ""
        self._has_reasoning = False
        """Whether any reasoning was returned."""

    @property
    def held_length(self) -> int:
        """Number of characters that are held back."""
        return len(self._held)

    def push(self, text: str, last: bool) -> tuple[str, str]:
        """Reasoning and content that `text` adds; nothing is held back once it is the `last`."""
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
        reasoning, tag, rest = held.partition(self._closing)
        if tag:
            self._held, self._state = rest, "gap"
            return reasoning.rstrip()
        cut = len(reasoning) - (0 if last else held_suffix_length(reasoning, self._closing))
        self._held, self._has_reasoning = reasoning[cut:], self._has_reasoning or cut > 0
        return reasoning[:cut]


class OutputParser(Protocol):
    """Parses the visible text of one choice, piece by piece."""

    has_calls: bool
    """Whether the output has a tool call."""

    @property
    def held_length(self) -> int:
        """Number of characters at the end of the text so far that are held back."""

    def push(self, text: str, last: bool) -> OutputDelta:
        """What `text` adds; nothing is held back once it is the `last`."""


class DelegatingOutputParser:
    """Splits off reasoning, and leaves the rest to a parser of tool calls."""

    def __init__(
        self, reasoning_splitter: ReasoningSplitter | None, tool_call_parser: ToolCallParser
    ) -> None:
        self._reasoning_splitter, self._tool_call_parser = reasoning_splitter, tool_call_parser
        self.has_calls = False
        """Whether the output has a tool call."""

    @property
    def held_length(self) -> int:
        """Number of characters at the end of the text so far that are held back."""
        splitter = self._reasoning_splitter
        in_splitter = 0 if splitter is None else splitter.held_length
        return self._tool_call_parser.held_length + in_splitter

    def push(self, text: str, last: bool) -> OutputDelta:
        """What `text` adds; nothing is held back once it is the `last`."""
        reasoning = ""
        if self._reasoning_splitter is not None:
            reasoning, text = self._reasoning_splitter.push(text, last)
        content, calls = self._tool_call_parser.push(text, last)
        self.has_calls = self.has_calls or bool(calls)
        return OutputDelta(content, reasoning, calls)


def find_reasoning_tags(template: str) -> tuple[str, str] | None:
    """The reasoning tags that a chat template contains."""
    return next((tags for tags in REASONING_TAGS if tags[1] in template), None)
