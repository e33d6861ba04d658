"""Finds tool calls in a text that arrives piece by piece.

Text that may be the start of a mark is held back, and so is white space that may precede one. What
cannot be parsed as a call of a known tool is content, including its marks. Pure but for ids.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import orjson

from router.openai.parsing.tool_call_formats import ParsedCall, ToolCallFormat


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

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """What `text` adds; nothing is held back once it is the `last`."""


def held_suffix_length(text: str, mark: str) -> int:
    """Length of the end of `text` that may be the start of `mark`, with white space before it."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    size = next((size for size in sizes if mark.startswith(text[-size:])), 0)
    return len(text) - len(text[: len(text) - size].rstrip())


class NoToolCalls:
    """The parser of a chat without tools: all text is content."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """The text."""
        return text, ()


class KnownTools:
    """Parses calls of known tools, and numbers them."""

    def __init__(
        self, format: ToolCallFormat, tools: Collection[str], max_calls: int | None
    ) -> None:
        self._format, self._tools, self._max_calls = format, tools, max_calls
        self.call_count = 0

    def parse_calls(self, text: str) -> tuple[ToolCallDelta, ...] | None:
        """The calls in `text` up to the maximum; None if `text` is not a call of a known tool."""
        calls = self._format.parse(text)
        if not calls or not all(call.name in self._tools for call in calls):
            return None
        first, self.call_count = self.call_count, self.call_count + len(calls)
        kept = calls if self._max_calls is None else calls[: max(0, self._max_calls - first)]
        return tuple(_call_delta(index, call) for index, call in enumerate(kept, first))


class DelimitedCalls:
    """Parses calls between marks."""

    def __init__(
        self, format: ToolCallFormat, tools: Collection[str], max_calls: int | None = None
    ) -> None:
        """`max_calls`: any further calls are dropped."""
        self._opening, self._closing = format.opening, format.closing
        self._known_tools = KnownTools(format, tools, max_calls)
        self._held = ""
        self._in_call = False
        self._whitespace_before = ""
        """White space before the mark; dropped if a call follows."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Content, and complete calls."""
        self._held += text
        content = ""
        calls: tuple[ToolCallDelta, ...] = ()
        while (part := self._next_part(last)) is not None:
            content, calls = content + part[0], calls + part[1]
        if self._in_call:
            return content, calls
        cut = len(self._held) - (0 if last else held_suffix_length(self._held, self._opening))
        certain, self._held = self._held[:cut], self._held[cut:]
        is_trailing_space = last and self._known_tools.call_count and not certain.strip()
        return content + ("" if is_trailing_space else certain), calls

    def _next_part(self, last: bool) -> ContentAndCalls | None:
        """Content up to an opening mark, or the text after one; None if that is incomplete."""
        if not self._in_call:
            before, mark, rest = self._held.partition(self._opening)
            if not mark:
                return None
            content = before.rstrip()
            self._held, self._in_call, self._whitespace_before = rest, True, before[len(content) :]
            return content, ()
        body, mark, rest = self._held.partition(self._closing or "\0")
        if not mark and not last:
            return None
        self._in_call = False
        self._held = rest
        calls = self._known_tools.parse_calls(body)
        raw = f"{self._whitespace_before}{self._opening}{body}{mark}"
        return (raw, ()) if calls is None else ("", calls)


class WholeOutputCalls:
    """Parses calls in a format without an opening mark: the whole output is JSON, or content."""

    def __init__(
        self, format: ToolCallFormat, tools: Collection[str], max_calls: int | None = None
    ) -> None:
        self._call_prefixes = ("{", "[", *format.extra_marks)
        self._known_tools = KnownTools(format, tools, max_calls)
        self._held = ""
        self._is_content = False

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Nothing until the end, unless the first characters cannot begin a call."""
        self._held += text
        start = self._held.lstrip()
        possible = any(
            mark.startswith(start) or start.startswith(mark) for mark in self._call_prefixes
        )
        self._is_content = self._is_content or not possible
        if not self._is_content and not last:
            return "", ()
        output, self._held = self._held, ""
        calls = None if self._is_content else self._known_tools.parse_calls(output)
        return (output, ()) if calls is None else ("", calls)


class ForcedCall:
    """Parses the one call that a grammar required; its arguments are returned as they arrive."""

    def __init__(self, tools_by_prefix: Mapping[str, str]) -> None:
        """`tools_by_prefix`: the possible beginnings of the output, and the tools they call."""
        self._tools_by_prefix = tools_by_prefix
        self._held = ""
        self._arguments: str | None = None
        """The arguments so far, once the tool is known."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Parts of the call; output that ends before the tool is known is content."""
        self._held += text
        name = self._match_prefix() if self._arguments is None else None
        if self._arguments is None:
            return self._held if last else "", ()
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


def tool_call_parser_factory(
    format: ToolCallFormat, tools: Collection[str], max_calls: int | None
) -> Callable[[], ToolCallParser]:
    """Makes the parser of `format` for one choice."""
    kind: Callable[..., ToolCallParser] = DelimitedCalls if format.opening else WholeOutputCalls
    return lambda: kind(format, tools, max_calls)


def new_call_id() -> str:
    """A random id for a call."""
    return f"call_{secrets.token_hex(12)}"


def _call_delta(index: int, call: ParsedCall) -> ToolCallDelta:
    return ToolCallDelta(index, call.arguments, new_call_id(), call.name)


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
