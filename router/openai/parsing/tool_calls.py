"""Finds tool calls in a text that comes piece by piece.

What may still be the start of a mark is withheld, and so is white space that may stand before one.
What cannot be read as a call of a known tool is content, with its marks. Pure but for the ids.
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
    """A part of a call; the first of a call has its id and name."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


ContentAndCalls = tuple[str, tuple[ToolCallDelta, ...]]
"""Content, and parts of calls."""


class ToolCallParser(Protocol):
    """Finds the calls of one choice."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """What `text` adds; nothing is withheld behind the `last`."""


def held_suffix_length(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the start of `mark`, and blanks before it."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    size = next((size for size in sizes if mark.startswith(text[-size:])), 0)
    return len(text) - len(text[: len(text) - size].rstrip())


class NoToolCalls:
    """All text is content."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """The text."""
        return text, ()


class KnownTools:
    """Reads calls of known tools, and counts them."""

    def __init__(
        self, format: ToolCallFormat, tools: Collection[str], max_calls: int | None
    ) -> None:
        self._format, self._tools, self._max_calls = format, tools, max_calls
        self.call_count = 0

    def parse_calls(self, text: str) -> tuple[ToolCallDelta, ...] | None:
        """The calls in `text`, less those that are too many; None if it is no call of a tool."""
        calls = self._format.parse(text)
        if not calls or not all(call.name in self._tools for call in calls):
            return None
        first, self.call_count = self.call_count, self.call_count + len(calls)
        most = len(calls) if self._max_calls is None else max(0, self._max_calls - first)
        return tuple(_call_delta(first + place, call) for place, call in enumerate(calls[:most]))


class DelimitedCalls:
    """Calls between marks."""

    def __init__(
        self, format: ToolCallFormat, tools: Collection[str], max_calls: int | None = None
    ) -> None:
        """`most`: calls beyond so many are dropped."""
        self._opening, self._closing = format.opening, format.closing
        self._known_tools = KnownTools(format, tools, max_calls)
        self._held = ""
        self._in_call = False
        self._whitespace_before = ""
        """White space before the mark, which belongs to it if a call follows."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Content, and whole calls."""
        self._held += text
        content = ""
        calls: tuple[ToolCallDelta, ...] = ()
        while (found := self._next_part(last)) is not None:
            content, calls = content + found[0], calls + found[1]
        if self._in_call:
            return content, calls
        cut = len(self._held) - (0 if last else held_suffix_length(self._held, self._opening))
        told, self._held = self._held[:cut], self._held[cut:]
        blank = last and self._known_tools.call_count and not told.strip()
        return content + ("" if blank else told), calls

    def _next_part(self, last: bool) -> ContentAndCalls | None:
        """Content up to an opening mark, or what stands behind one; None if that is not whole."""
        if not self._in_call:
            before, mark, rest = self._held.partition(self._opening)
            if not mark:
                return None
            told = before.rstrip()
            self._held, self._in_call, self._whitespace_before = rest, True, before[len(told) :]
            return told, ()
        body, mark, rest = self._held.partition(self._closing or "\0")
        if not mark and not last:
            return None
        self._in_call = False
        self._held = rest
        calls = self._known_tools.parse_calls(body)
        raw = f"{self._whitespace_before}{self._opening}{body}{mark}"
        return (raw, ()) if calls is None else ("", calls)


class WholeOutputCalls:
    """Calls in a format without an opening: the whole output is JSON, or none of it is."""

    def __init__(
        self, format: ToolCallFormat, tools: Collection[str], max_calls: int | None = None
    ) -> None:
        self._call_prefixes = ("{", "[", *format.extra_marks)
        self._known_tools = KnownTools(format, tools, max_calls)
        self._held = ""
        self._is_content = False

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Nothing until the end, unless the first characters say that it is no call."""
        self._held += text
        start = self._held.lstrip()
        possible = any(
            mark.startswith(start) or start.startswith(mark) for mark in self._call_prefixes
        )
        self._is_content = self._is_content or not possible
        if not self._is_content and not last:
            return "", ()
        whole, self._held = self._held, ""
        calls = None if self._is_content else self._known_tools.parse_calls(whole)
        return (whole, ()) if calls is None else ("", calls)


class ForcedCall:
    """The one call that a grammar demanded; its arguments are told as they come."""

    def __init__(self, tools_by_prefix: Mapping[str, str]) -> None:
        """`heads`: what the output begins with, and the tool that this means."""
        self._tools_by_prefix = tools_by_prefix
        self._held = ""
        self._arguments: str | None = None
        """The arguments so far, once the tool is known."""

    def push(self, text: str, last: bool) -> ContentAndCalls:
        """Parts of the call; an output cut short before the tool is known is content."""
        self._held += text
        name = self._match_prefix() if self._arguments is None else None
        if self._arguments is None:
            cut = self._held if last else ""
            return cut, ()
        arguments = self._new_arguments(self._arguments, last)
        self._arguments += arguments
        if name is not None:
            return "", (ToolCallDelta(0, arguments, new_call_id(), name),)
        return "", (ToolCallDelta(0, arguments),) if arguments else ()

    def _match_prefix(self) -> str | None:
        head = next((head for head in self._tools_by_prefix if self._held.startswith(head)), None)
        if head is None:
            return None
        self._held, self._arguments = self._held[len(head) :], ""
        return self._tools_by_prefix[head]

    def _new_arguments(self, sent: str, last: bool) -> str:
        """Arguments that are certain: not the brace that closes the object around them."""
        cut = max(len(self._held.rstrip()) - 1, 0)
        if last and not _is_object(sent + self._held[:cut]):
            cut = len(self._held)
        more, self._held = self._held[:cut], self._held[cut:]
        return more


def tool_call_parser_factory(
    format: ToolCallFormat, tools: Collection[str], max_calls: int | None
) -> Callable[[], ToolCallParser]:
    """Makes what finds the calls of `format` in one choice."""
    kind: Callable[..., ToolCallParser] = DelimitedCalls if format.opening else WholeOutputCalls
    return lambda: kind(format, tools, max_calls)


def new_call_id() -> str:
    """A fresh id of a call."""
    return f"call_{secrets.token_hex(12)}"


def _call_delta(index: int, call: ParsedCall) -> ToolCallDelta:
    return ToolCallDelta(index, call.arguments, new_call_id(), call.name)


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
