"""Finds tool calls in a text that arrives piece by piece.

Text that may be the start of a mark is held back, and so is white space that may precede one. What
cannot be parsed as a call of a known tool is content, including its marks. Pure but for ids.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.openai.parsing.call_readers import CallReader, Cursor
from router.openai.parsing.call_values import ParsedCall, Tools
from router.openai.parsing.json_scanner import is_json
from router.openai.parsing.tool_call_formats import Reader, ToolCallFormat


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A part of a call; the first part has the id and the name."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


ContentAndCalls = tuple[str, tuple[ToolCallDelta, ...]]
"""Content, and parts of calls."""


class ToolCallParser(Protocol):
    """Finds the calls of one choice."""

    @property
    def held_length(self) -> int:
        """Number of characters at the end of the text so far that are held back."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """What `text` adds; nothing is held back once it is the `last`."""


def held_suffix_length(text: str, *marks: str) -> int:
    """Length of the end of `text` that may be the start of a mark, with white space before it."""
    sizes = range(min(len(text), max(map(len, marks)) - 1), 0, -1)
    starts = (size for size in sizes if any(mark.startswith(text[-size:]) for mark in marks))
    size = next(starts, 0)
    return len(text) - len(text[: len(text) - size].rstrip())


class NoToolCalls:
    """The parser of a chat without tools: all text is content."""

    held_length = 0

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """The text."""
        return text, ()


class KnownTools:
    """Numbers calls of known tools."""

    def __init__(self, tools: Tools, max_calls: int | None) -> None:
        """`max_calls`: any further calls are dropped."""
        self.tools, self._max_calls = tools, max_calls
        self.call_count = 0

    def number(self, calls: Sequence[ParsedCall]) -> tuple[ToolCallDelta, ...] | None:
        """The `calls` up to the maximum; None if one of them is not of a known tool."""
        if not all(call.name in self.tools for call in calls):
            return None
        first, self.call_count = self.call_count, self.call_count + len(calls)
        kept = calls if self._max_calls is None else calls[: max(0, self._max_calls - first)]
        return tuple(_call_delta(index, call) for index, call in enumerate(kept, first))


class StreamedCalls:
    """Finds the calls in the output of one choice, in a format with a reader."""

    def __init__(self, format: ToolCallFormat, tools: Tools, max_calls: int | None = None) -> None:
        """`max_calls`: any further calls are dropped."""
        self._format = format
        self._known_tools = KnownTools(tools, max_calls)
        self._cursor = Cursor()
        """The text that is neither content nor part of a call yet."""
        self._reader: CallReader | None = None
        """Reads the current block of calls, if there is one."""
        self._bare_reader = format.bare_reader
        """Reads an output that begins with JSON; None once anything but white space was there."""

    @property
    def held_length(self) -> int:
        """Number of characters at the end of the text so far that are held back."""
        return len(self._cursor.text)

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Content, and complete calls."""
        self._cursor.text += text
        self._cursor.is_last = last
        content = ""
        calls: tuple[ToolCallDelta, ...] = ()
        while (part := self._next_part()) is not None:
            content, calls = content + part[0], calls + part[1]
        if self._reader is None:
            content += self._certain_content()
        return content, calls

    def _next_part(self) -> ContentAndCalls | None:
        """Content before a block of calls, or what the block has; None if nothing is certain."""
        if self._reader is None:
            return self._begin_block()
        try:
            calls = next(self._reader)
        except StopIteration as end:
            return self._end_block(is_content=not end.value), ()
        if calls is None:
            return None
        numbered = self._known_tools.number(calls)
        if numbered is None:
            return self._end_block(is_content=True), ()
        self._cursor.drop_read()
        return "", numbered

    def _begin_block(self) -> ContentAndCalls | None:
        text = self._cursor.text
        start = len(text) - len(text.lstrip())
        if self._bare_reader and text[start : start + 1] in ("{", "["):
            return self._read_block(self._bare_reader, "", start)
        found = [(text.find(mark), mark) for mark in self._format.readers if mark in text]
        if not found:
            return None
        start, mark = min(found)
        content = text[:start].rstrip()
        self._cursor.text = text[len(content) :]
        position = start - len(content) + len(mark)
        return self._read_block(self._format.readers[mark], content, position)

    def _read_block(self, read: Reader, content: str, position: int) -> ContentAndCalls:
        """Start a reader at `position` of the text; white space before a call is dropped."""
        self._bare_reader = None
        self._cursor.position = position
        self._reader = read(self._cursor, self._known_tools.tools)
        return content, ()

    def _end_block(self, is_content: bool) -> str:
        self._reader = None
        text = self._cursor.drop_read()
        return text if is_content else ""

    def _certain_content(self) -> str:
        """Text that is not the start of a mark, nor white space that may precede one."""
        text, last = self._cursor.text, self._cursor.is_last
        marks = self._format.readers
        held = 0 if last or not marks else held_suffix_length(text, *marks)
        if self._bare_reader and not last and not text.strip():
            held = len(text)
        content, self._cursor.text = text[: len(text) - held], text[len(text) - held :]
        self._bare_reader = None if content else self._bare_reader
        is_trailing_space = last and self._known_tools.call_count and not content.strip()
        return "" if is_trailing_space else content


class ForcedCall:
    """Parses the one call that a grammar required; its arguments are returned as they arrive."""

    def __init__(self, tools_by_prefix: Mapping[str, str]) -> None:
        """`tools_by_prefix`: the possible beginnings of the output, and the tools they call."""
        self._tools_by_prefix = tools_by_prefix
        self._held = ""
        self._arguments: str | None = None
        """The arguments so far, once the tool is known."""

    @property
    def held_length(self) -> int:
        """Number of characters at the end of the text so far that are held back."""
        return len(self._held)

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Parts of the call; output that ends before the tool is known is content."""
        self._held += text
        name = self._match_prefix() if self._arguments is None else None
        if self._arguments is None:
            content, self._held = (self._held, "") if last else ("", self._held)
            return content, ()
        arguments = self._new_arguments(self._arguments, last)
        self._arguments += arguments
        if name is not None:
            return "", (ToolCallDelta(0, arguments, new_call_id(), name),)
        return "", (ToolCallDelta(0, arguments),) if arguments else ()

    def _match_prefix(self) -> str | None:
        prefixes = self._tools_by_prefix
        prefix = next((prefix for prefix in prefixes if self._held.startswith(prefix)), None)
        if prefix is None:
            return None
        self._held, self._arguments = self._held[len(prefix) :], ""
        return prefixes[prefix]

    def _new_arguments(self, sent: str, last: bool) -> str:
        """The arguments without the brace that closes the object around them."""
        cut = max(len(self._held.rstrip()) - 1, 0)
        if last and not _is_object(sent + self._held[:cut]):
            cut = len(self._held)
        arguments, self._held = self._held[:cut], self._held[cut:]
        return arguments


def new_call_id() -> str:
    """A random id for a call."""
    return f"call_{secrets.token_hex(12)}"


def _call_delta(index: int, call: ParsedCall) -> ToolCallDelta:
    return ToolCallDelta(index, call.arguments, new_call_id(), call.name)


def _is_object(text: str) -> bool:
    return text.lstrip().startswith("{") and is_json(text)
